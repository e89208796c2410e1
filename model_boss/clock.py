"""The holder's own clock, by which it knows when its lease is over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def now_s() -> float:
    """Read seconds that never go back, and go on while the machine sleeps where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Term:
    """How long a lease lasts by the holder's own clock: less than the ledger holds it."""

    def __init__(self, ttl_s: float, safety_s: float, clock: Callable[[], float] = now_s) -> None:
        self._length_s = ttl_s - safety_s
        self._clock = clock
        self._ends_at_s = 0.0

    def begin(self, sent_at_s: float) -> None:
        """Count from when the call was sent: the ledger counts from when it received it."""
        self._ends_at_s = sent_at_s + self._length_s

    def left_s(self) -> float:
        """Return how long it lasts yet; negative afterwards."""
        return self._ends_at_s - self._clock()
