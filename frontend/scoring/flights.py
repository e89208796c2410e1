"""Questions in flight: what several requests ask at the same time is asked once.

    A asks (x, y)      --> Triton is asked x and y
    B asks (y, z)      --> Triton is asked z; y is waited for
    A's client leaves  --> x and y go on, for B; without B they would end here
    A's request fails  --> B asks for y itself: A's reason (a deadline, a queue) may be A's own

Only the refusal of a single question belongs to that question, and is told to all who asked it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frontend.triton.errors import Rejected, TimedOut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from frontend.deadline import Deadline

    Scores = dict[bytes, float]
    Ask = Callable[[Sequence[bytes]], Awaitable[Scores]]


@dataclass(eq=False)
class _Flight:
    task: asyncio.Task[Scores]
    keys: Sequence[bytes]
    waiting: int = 0


class Flights:
    """All questions that are being asked."""

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight] = {}

    def count(self, keys: Sequence[bytes]) -> int:
        """Count how many of these are being asked by others."""
        return sum(key in self._flights for key in keys)

    async def score(self, keys: Sequence[bytes], ask: Ask, deadline: Deadline) -> Scores:
        """Score different keys; those that nobody asks for yet need one call of `ask`.

        Raises:
            ServiceError: whatever `ask` raises.
            TimedOut: the deadline passed.
        """
        joined = list(dict.fromkeys(self._flights[key] for key in keys if key in self._flights))
        new = [key for key in keys if key not in self._flights]
        own = [self._start(new, ask)] if new else []
        for flight in own + joined:
            flight.waiting += 1
        scores: Scores = {}
        try:
            for flight in own:
                scores |= await asyncio.shield(flight.task)
            if joined:
                tasks = {flight.task for flight in joined}
                if (await asyncio.wait(tasks, timeout=deadline.remaining_s()))[1]:
                    raise TimedOut("the deadline passed while the model was asked")
        finally:
            for flight in own + joined:
                self._leave(flight)
        for flight in joined:
            error = flight.task.exception()
            if isinstance(error, Rejected) and len(flight.keys) == 1:
                raise error
            if error is None:
                scores |= flight.task.result()
        left = [key for key in keys if key not in scores]
        if left:
            scores |= await ask(left)
        return {key: scores[key] for key in keys}

    def _start(self, keys: Sequence[bytes], ask: Ask) -> _Flight:
        async def run() -> Scores:
            return await ask(keys)

        flight = _Flight(asyncio.create_task(run()), keys)
        self._flights.update(dict.fromkeys(keys, flight))
        flight.task.add_done_callback(lambda task: self._land(flight, task))
        return flight

    def _leave(self, flight: _Flight) -> None:
        """Stop waiting; a question that nobody waits for is given up."""
        flight.waiting -= 1
        if not flight.waiting:
            self._forget(flight)
            flight.task.cancel()  # does nothing to what is done

    def _land(self, flight: _Flight, task: asyncio.Task[Scores]) -> None:
        self._forget(flight)
        if not task.cancelled():
            task.exception()  # those who wait have it; perhaps nobody does

    def _forget(self, flight: _Flight) -> None:
        for key in flight.keys:
            if self._flights.get(key) is flight:
                del self._flights[key]
