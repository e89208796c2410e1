"""Identical questions at the same time: who asks, who waits, and what each is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from frontend.deadline import Deadline
from frontend.scoring.flights import Flights
from frontend.triton.errors import QueueFull, Rejected, TimedOut

if TYPE_CHECKING:
    from collections.abc import Sequence


class Model:
    """A model that scores a key as its first byte, once the test lets it."""

    def __init__(self) -> None:
        self.asked: list[Sequence[bytes]] = []
        self.open = asyncio.Event()
        self.errors: list[Exception] = []
        self.cancelled = 0

    async def __call__(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        self.asked.append(keys)
        error = self.errors.pop(0) if self.errors else None
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if error is not None:
            raise error
        return {key: float(key[0]) for key in keys}


def _start(
    flights: Flights, model: Model, keys: Sequence[bytes], timeout_s: float = 10
) -> asyncio.Task[dict[bytes, float]]:
    return asyncio.create_task(flights.score(keys, model, Deadline.after(timeout_s)))


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_in_flight_is_not_asked_again() -> None:
    """Each key is asked once, by the first request, and all requests get all their scores."""
    flights, model = Flights(), Model()
    tasks = [_start(flights, model, keys) for keys in ([b"a", b"b"], [b"b", b"c"], [b"a", b"c"])]
    await _settle()
    assert flights.count([b"a", b"b", b"c", b"d"]) == 3
    model.open.set()
    scores = await asyncio.gather(*tasks)
    assert model.asked == [[b"a", b"b"], [b"c"]]
    assert scores == [{b"a": 97, b"b": 98}, {b"b": 98, b"c": 99}, {b"a": 97, b"c": 99}]
    await _settle()
    assert flights.count([b"a", b"b", b"c"]) == 0


async def test_the_first_one_leaves() -> None:
    """If the request that asked is cancelled, the others still get the score."""
    flights, model = Flights(), Model()
    first, second = (_start(flights, model, [b"a"]) for _ in range(2))
    await _settle()
    first.cancel()
    await _settle()
    assert first.cancelled()
    model.open.set()
    assert await second == {b"a": 97}
    assert (model.asked, model.cancelled) == ([[b"a"]], 0)


async def test_all_leave() -> None:
    """If nobody waits any more, the question ends, and it may be asked anew at once."""
    flights, model = Flights(), Model()
    tasks = [_start(flights, model, [b"a"]) for _ in range(3)]
    await _settle()
    for task in tasks:
        task.cancel()
    again = _start(flights, model, [b"a"])
    await _settle()
    assert model.cancelled == 1
    model.open.set()
    assert await again == {b"a": 97}


async def test_an_error_is_its_own() -> None:
    """The first request's error may be its own, so the others ask for themselves, all at once."""
    flights, model = Flights(), Model()
    model.errors.append(QueueFull("full"))
    tasks = [_start(flights, model, [b"a"]) for _ in range(3)]
    await _settle()
    model.open.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, QueueFull)
    assert others == [{b"a": 97}, {b"a": 97}]
    assert len(model.asked) == 3


@pytest.mark.parametrize(("keys", "is_shared"), [([b"a"], True), ([b"a", b"b"], False)])
async def test_an_error_of_the_question(keys: list[bytes], *, is_shared: bool) -> None:
    """A refusal of a single question holds for all who ask it; a refusal of a batch does not."""
    flights, model = Flights(), Model()
    model.errors.append(Rejected("no finite score"))
    tasks = [_start(flights, model, keys), _start(flights, model, [b"a"])]
    await _settle()
    model.open.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], Rejected)
    assert isinstance(outcomes[1], Rejected) is is_shared
    assert len(model.asked) == (1 if is_shared else 2)


async def test_each_waits_until_his_own_deadline() -> None:
    """A request with little time gets TimedOut, while the one that asked goes on waiting."""
    flights, model = Flights(), Model()
    first = _start(flights, model, [b"a"])
    await _settle()
    with pytest.raises(TimedOut):
        await _start(flights, model, [b"a"], timeout_s=0.05)
    model.open.set()
    assert await first == {b"a": 97}
