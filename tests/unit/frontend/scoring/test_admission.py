"""Admission: some images at once, some waiting, first come first served, and 429 beyond that."""

from __future__ import annotations

import asyncio

import pytest

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded
from frontend.scoring.admission import Admission
from frontend.scoring.errors import Overloaded

LONG = Deadline.after(3600)


class Caller:
    """A request that holds its places until it is told to leave."""

    def __init__(self, admission: Admission, images: int = 1, deadline: Deadline = LONG) -> None:
        self.leave = asyncio.Event()
        self.inside = False
        self.task = asyncio.create_task(self._run(admission, images, deadline))

    async def _run(self, admission: Admission, images: int, deadline: Deadline) -> None:
        async with admission.admit(images, deadline):
            self.inside = True
            await self.leave.wait()
        self.inside = False

    async def finish(self) -> None:
        self.leave.set()
        await self.task


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_first_come_first_served() -> None:
    """Who has waited longest enters next, and as many enter as there is room for."""
    admission = Admission(max_concurrency=2, max_queue=10)
    callers = [Caller(admission) for _ in range(5)]
    await _settle()
    assert [caller.inside for caller in callers] == [True, True, False, False, False]
    assert (admission.in_work, admission.queued) == (2, 3)
    for index in range(5):
        await callers[index].finish()
        await _settle()
        assert [caller.inside for caller in callers] == [index < place <= index + 2 for place in range(5)]
    assert (admission.in_work, admission.queued) == (0, 0)


async def test_a_batch_weighs_what_it_costs_and_is_not_overtaken() -> None:
    """A batch waits until all its images have room.

    A single image that came later does not pass it.
    """
    admission = Admission(max_concurrency=4, max_queue=10)
    first = Caller(admission, 2)
    batch = Caller(admission, 4)
    single = Caller(admission, 1)
    await _settle()
    assert (first.inside, batch.inside, single.inside) == (True, False, False)
    await first.finish()
    await _settle()
    assert (batch.inside, single.inside) == (True, False)
    await batch.finish()
    await single.finish()
    assert (admission.in_work, admission.queued) == (0, 0)


async def test_batches_leave_places_to_single_images() -> None:
    """A request of one image enters however many batches are in work and waiting.

    Single images do not keep batches out for ever.
    """
    admission = Admission(max_concurrency=16, max_queue=100)
    batches = [Caller(admission, 4) for _ in range(5)]
    singles = [Caller(admission) for _ in range(8)]
    await _settle()
    assert [batch.inside for batch in batches] == [True, True, True, False, False]
    assert [single.inside for single in singles] == [True] * 2 + [False] * 6
    await batches[0].finish()
    await singles[0].finish()
    await _settle()
    assert [batch.inside for batch in batches] == [False, True, True, True, False]
    assert [single.inside for single in singles] == [False, True, True] + [False] * 5
    for caller in (*batches[1:], *singles[1:]):
        await caller.finish()
    assert (admission.in_work, admission.queued, admission._batched) == (0, 0, 0)


async def test_a_full_queue_refuses_at_once() -> None:
    """When the queue is full, the refusal is immediate and takes no places."""
    admission = Admission(max_concurrency=1, max_queue=2)
    callers = [Caller(admission), Caller(admission, 1), Caller(admission, 1)]
    await _settle()
    with pytest.raises(Overloaded):
        async with admission.admit(1, LONG):
            pytest.fail("admitted")
    assert (admission.in_work, admission.queued) == (1, 2)
    for caller in callers:
        await caller.finish()


async def test_retry_after_follows_the_measured_service_time() -> None:
    """Retry-After grows with the time that images take and with the number of those waiting."""
    admission = Admission(max_concurrency=1, max_queue=8)
    for _ in range(30):  # the running mean forgets its first guess
        async with admission.admit(1, LONG):
            await asyncio.sleep(0.05)
    quick = admission._retry_after_s()
    admission._image_s = 2.0
    callers = [Caller(admission) for _ in range(5)]
    await _settle()
    assert quick == 1.0  # never less than a second
    assert admission._retry_after_s() == pytest.approx(2.0 * 5)
    admission._image_s = 0.0
    for caller in callers:
        await caller.finish()
    async with admission.admit(1, LONG):
        await asyncio.sleep(0.5)
    assert admission._image_s >= 0.2 * 0.5  # a fifth of the newest


async def test_a_deadline_that_passes_in_the_queue() -> None:
    """At its deadline a waiting request gets DeadlineExceeded and leaves its place in the queue."""
    admission = Admission(max_concurrency=1, max_queue=2)
    holder = Caller(admission)
    await _settle()
    with pytest.raises(DeadlineExceeded):
        async with admission.admit(2, Deadline.after(0.05)):
            pytest.fail("admitted")
    assert (admission.in_work, admission.queued) == (1, 0)
    await holder.finish()


async def test_a_caller_who_leaves_the_queue_lets_the_next_one_in() -> None:
    """A batch that is cancelled at the head of the queue no longer holds up the others."""
    admission = Admission(max_concurrency=2, max_queue=10)
    holder, batch, single = Caller(admission, 1), Caller(admission, 2), Caller(admission, 1)
    await _settle()
    assert [caller.inside for caller in (holder, batch, single)] == [True, False, False]
    batch.task.cancel()
    await _settle()
    assert single.inside
    assert (admission.in_work, admission.queued) == (2, 0)
    await holder.finish()
    await single.finish()


async def test_cancelled_in_the_moment_of_admission() -> None:
    """No place is lost or counted twice by a cancellation, just before or just after the turn."""
    for finish_first in (True, False):
        admission = Admission(max_concurrency=1, max_queue=10)
        holder, waiting, last = Caller(admission), Caller(admission), Caller(admission)
        await _settle()
        if finish_first:
            holder.leave.set()
            await asyncio.sleep(0)  # the holder leaves: `waiting` has its turn, but has not run
            waiting.task.cancel()
        else:
            waiting.task.cancel()
            holder.leave.set()
        await _settle()
        assert waiting.task.cancelled()
        assert last.inside
        assert (admission.in_work, admission.queued) == (1, 0)
        await last.finish()
        assert (admission.in_work, admission.queued) == (0, 0)


async def test_many_callers_who_come_and_go() -> None:
    """After thousands of admissions, refusals, cancellations and deadlines the counts are zero."""
    admission = Admission(max_concurrency=5, max_queue=20)
    most = 0

    async def call(number: int) -> None:
        nonlocal most
        deadline = Deadline.after(0.002 if number % 7 == 0 else 60)
        async with admission.admit(1 + number % 5, deadline):
            most = max(most, admission.in_work)
            await asyncio.sleep(0.001 * (number % 3))

    tasks = []
    for number in range(3000):
        tasks.append(asyncio.create_task(call(number)))
        if number % 11 == 0:
            tasks[number // 2].cancel()
        if number % 8 == 0:
            await asyncio.sleep(0.0005)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    unexpected = [
        outcome
        for outcome in outcomes
        if not isinstance(outcome, (Overloaded, DeadlineExceeded, asyncio.CancelledError, type(None)))
    ]
    assert unexpected == []
    assert outcomes.count(None) > 0
    assert most <= 5
    assert (admission.in_work, admission.queued, len(admission._waiting)) == (0, 0, 0)
