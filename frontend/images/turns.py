"""Whose image is next: requests take turns, and none holds every worker."""

from __future__ import annotations

import asyncio
from collections import Counter, deque


class Turns:
    """A fixed number of places, given to requests in rotation.

    One request holds all places but one at most: whoever comes while a batch of slow images is in work
    finds a worker that is free, and waits for no image of that batch.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._max_each = max(1, places - 1)
        self._held: Counter[object] = Counter()
        self._waiting: dict[object, deque[asyncio.Future[None]]] = {}  # who waits longest for a turn is first

    async def take(self, request: object) -> None:
        """Wait for a place; whoever is cancelled meanwhile costs nobody a turn."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(request, deque()).append(turn)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # given in the same moment
                self.give_back(request)
            raise

    def give_back(self, request: object) -> None:
        """Leave a place that was taken."""
        self._free += 1
        self._held[request] -= 1
        if not self._held[request]:
            del self._held[request]
        self._wake()

    def _wake(self) -> None:
        while self._free:
            request = next((each for each in self._waiting if self._held[each] < self._max_each), None)
            if request is None:
                return
            turns = self._waiting.pop(request)
            turn = turns.popleft()
            if not turn.cancelled():
                self._free -= 1
                self._held[request] += 1
                turn.set_result(None)
            if turns:
                self._waiting[request] = turns  # behind all others
