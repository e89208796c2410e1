"""Who is sent to Triton with whom, and what each of them is told."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded
from frontend.triton.batcher import Batch, Batcher
from frontend.triton.errors import NotReady, Rejected, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable


class Sender:
    """Stands for Triton: a row's reward is its pixel; requests are answered while it is open."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.open = asyncio.Event()
        self.failure: Callable[[list[float]], Exception | None] = lambda _: None
        self.given_up = 0

    async def __call__(self, batch: Batch) -> list[float]:
        self.batches.append(batch)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        rewards: list[float] = batch.tensors[0].tolist()
        failure = self.failure(rewards)
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # else it would keep itself by its traceback
        return rewards

    @property
    def sent(self) -> list[list[float]]:
        """Return the rows of each request."""
        return [batch.tensors[0].tolist() for batch in self.batches]


@pytest.fixture
def triton() -> Sender:
    return Sender()


@pytest.fixture
def batcher(triton: Sender) -> Batcher:
    return Batcher(triton)


def _batch(*rows: float, timeout_s: float = 10, priority: int = 1, request_id: str = "") -> Batch:
    column = np.array(rows)
    headers = {"traceparent": request_id}
    return Batch((column, column), Deadline.after(timeout_s), priority, request_id, headers)


async def _ask(batcher: Batcher, *batches: Batch) -> list[asyncio.Task[list[float]]]:
    """Let callers ask, in this order, and wait until each has been sent or waits."""
    callers = [asyncio.create_task(batcher.score(batch)) for batch in batches]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return callers


async def _outcomes(*callers: asyncio.Task[list[float]]) -> list[object]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*callers, return_exceptions=True)


async def test_those_who_wait_go_together(batcher: Batcher, triton: Sender) -> None:
    """The first goes at once; those who ask meanwhile are one request, and each gets its own."""
    callers = await _ask(batcher, _batch(1), _batch(2, 3), _batch(4), _batch(5, 6))
    assert triton.sent == [[1]]
    triton.open.set()
    assert await _outcomes(*callers) == [[1], [2, 3], [4], [5, 6]]
    assert triton.sent == [[1], [2, 3, 4, 5, 6]]


async def test_one_after_another_waits_for_nobody(batcher: Batcher, triton: Sender) -> None:
    """A caller who is alone is a request of its own."""
    triton.open.set()
    assert [await batcher.score(_batch(row)) for row in (1, 2)] == [[1], [2]]
    assert triton.sent == [[1], [2]]


async def test_no_more_rows_than_fit(batcher: Batcher, triton: Sender) -> None:
    """Callers are joined in their order while they fit; a larger one goes alone."""
    batcher.max_rows = 3
    callers = await _ask(batcher, _batch(1), _batch(2), _batch(3, 4), _batch(5, 6, 7, 8), _batch(9))
    triton.open.set()
    await _outcomes(*callers)
    assert triton.sent == [[1], [2, 3, 4], [5, 6, 7, 8], [9]]


async def test_how_joined_ones_are_asked_for(batcher: Batcher, triton: Sender) -> None:
    """Joined callers have the time of the most patient and the priority of the most urgent.

    The id is the first one's, and the headers those of the first that has some.
    """
    waiting = _batch(2, timeout_s=20, priority=2, request_id="b"), _batch(3, timeout_s=10, request_id="c")
    waiting = replace(waiting[0], headers=None), waiting[1]
    callers = await _ask(batcher, _batch(1, request_id="a"), *waiting)
    triton.open.set()
    await _outcomes(*callers)
    joined = triton.batches[1]
    assert joined.deadline == waiting[0].deadline
    assert (joined.priority, joined.request_id, joined.headers) == (1, "b", {"traceparent": "c"})


async def test_a_refusal_is_ones_own(batcher: Batcher, triton: Sender) -> None:
    """If joined rows are refused, each caller's are sent alone, and only one's fault is told."""
    triton.failure = lambda rewards: Rejected("no number") if 3 in rewards else None
    callers = await _ask(batcher, _batch(1), _batch(2), _batch(3), _batch(4))
    triton.open.set()
    first, second, third, fourth = await _outcomes(*callers)
    assert (first, second, fourth) == ([1], [2], [4])
    assert isinstance(third, Rejected)
    assert triton.sent == [[1], [2, 3, 4], [2], [3], [4]]


@pytest.mark.parametrize("error", [NotReady("gone"), ZeroDivisionError()])
async def test_another_failure_is_told_to_all(batcher: Batcher, triton: Sender, error: Exception) -> None:
    """Any other failure is of all who were joined; the next request is sent all the same."""
    triton.failure = lambda rewards: error if 2 in rewards else None
    callers = await _ask(batcher, _batch(1), _batch(2), _batch(3))
    triton.open.set()
    assert await _outcomes(*callers) == [[1], error, error]
    assert await batcher.score(_batch(4)) == [4]


async def test_what_failed_keeps_no_memory(batcher: Batcher, triton: Sender) -> None:
    """The rows of a failed request are freed at once, not when the garbage collector next runs."""
    triton.failure = lambda _: NotReady("gone")
    triton.open.set()
    batch = _batch(1)
    rows = weakref.ref(batch)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(NotReady):
            await batcher.score(batch)
        triton.batches.clear()
        del batch
        await asyncio.sleep(0)
        assert rows() is None
    finally:
        gc.enable()


async def test_who_leaves_is_not_sent(batcher: Batcher, triton: Sender) -> None:
    """A caller who leaves, or whose time passes, before its turn costs Triton nothing."""
    first, leaves, late, last = await _ask(
        batcher, _batch(1), _batch(2), _batch(3, timeout_s=0.02), _batch(4)
    )
    leaves.cancel()
    with pytest.raises(TimedOut):
        await late
    triton.open.set()
    assert await _outcomes(first, last) == [[1], [4]]
    assert triton.sent == [[1], [4]]


async def test_what_nobody_waits_for_is_given_up(batcher: Batcher, triton: Sender) -> None:
    """When its last caller leaves, a request is given up, and the next one sent."""
    first, second, third = await _ask(batcher, _batch(1), _batch(2), _batch(3))
    first.cancel()
    await _outcomes(first)
    await asyncio.sleep(0.01)
    assert (triton.given_up, triton.sent) == (1, [[1], [2, 3]])
    second.cancel()
    await _outcomes(second)
    triton.open.set()
    assert await third == [3]
    assert triton.given_up == 1


async def test_a_lost_request_is_overtaken(triton: Sender) -> None:
    """What is not answered keeps others waiting for a while only, and its own caller longer."""
    batcher = Batcher(triton, overtaken_after_s=0.02)
    (lost,) = await _ask(batcher, _batch(1))
    (other,) = await _ask(batcher, _batch(2))
    await asyncio.sleep(0.05)
    assert triton.sent == [[1], [2]]
    triton.open.set()
    assert await _outcomes(lost, other) == [[1], [2]]


async def test_what_is_late_already_is_not_sent(batcher: Batcher, triton: Sender) -> None:
    """A caller whose deadline has passed is told so, and nothing is sent."""
    batch = Batch((np.zeros(1),), Deadline(time.monotonic() - 1), priority=1)
    with pytest.raises(DeadlineExceeded):
        await batcher.score(batch)
    assert triton.sent == []
