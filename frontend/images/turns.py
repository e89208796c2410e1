"""Whose image is next: requests, or hosts, take turns, and none holds every place."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict, deque


class TooManyWait(Exception):
    """A turn did not come: too many were waited for, and most of them by the same one."""


class Turns:
    """A fixed number of places; those who have used them least come first, each up to a limit.

    So a request that comes while many slow images of another are in work finds a free place, and
    waits for none of them. If several requests do the same, it is next.
    """

    def __init__(self, places: int, *, max_each: int, max_waiting: float = math.inf) -> None:
        self._free = self.places = places
        self._max_each = max_each
        self._max_waiting = max_waiting
        self._held: Counter[object] = Counter()
        self._used_s: defaultdict[object, float] = defaultdict(float)  # by those who hold places, or wait
        self._waiting: dict[object, deque[asyncio.Future[None]]] = {}  # who waits longest for a turn is first

    @property
    def taken(self) -> int:
        """Return how many places are held."""
        return self.places - self._free

    async def take(self, who: object) -> None:
        """Wait for a place; a caller who is cancelled meanwhile costs nobody a turn.

        Raises:
            TooManyWait: too many wait, and nobody waits for more turns than `who`.
        """
        if self.take_now(who):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        self._wake()
        if sum(map(len, self._waiting.values())) > self._max_waiting:
            self._send_one_away()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._drop(who, turn)
            else:  # given in the same moment
                self.give_back(who)
            raise

    def take_now(self, who: object) -> bool:
        """Take a place if `who` need not wait for one; return whether it was taken."""
        if self._waiting or not self._free or self._held[who] >= self._max_each:
            return False
        self._free -= 1
        self._held[who] += 1
        return True

    def give_back(self, who: object, used_s: float = 0) -> None:
        """Leave a place that was taken, after using it for this long."""
        self._free += 1
        self._held[who] -= 1
        self._used_s[who] += used_s
        self._forget(who)
        self._wake()

    def _send_one_away(self) -> None:
        """Send away who came last of those who wait for most; among equals, the newest."""
        who = max(reversed(self._waiting), key=lambda each: len(self._waiting[each]))
        turn = self._waiting[who][-1]
        self._drop(who, turn)
        if not turn.cancelled():
            turn.set_exception(TooManyWait())

    def _drop(self, who: object, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(who)
        if turns is None or turn not in turns:
            return  # taken out already
        turns.remove(turn)
        if not turns:
            del self._waiting[who]
            self._forget(who)

    def _forget(self, who: object) -> None:
        if not self._held[who] and who not in self._waiting:
            del self._held[who]
            self._used_s.pop(who, None)

    def _wake(self) -> None:
        while self._free:
            may = [each for each in self._waiting if self._held[each] < self._max_each]
            if not may:
                return
            who = min(may, key=lambda each: self._used_s.get(each, 0))
            turns = self._waiting.pop(who)
            turn = turns.popleft()
            if not turn.cancelled():
                self._free -= 1
                self._held[who] += 1
                turn.set_result(None)
            if turns:
                self._waiting[who] = turns  # behind all others
            else:
                self._forget(who)
