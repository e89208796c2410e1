"""A client that uses its memory for as long as it believes in its lease, and its clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from model_boss import OnOutage
from model_boss.tenure import lasts_s

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Temper:
    """How a client keeps time, and what it does when its lease is over by its own clock."""

    rate: float
    """What its clock counts while Redis's clock counts 1."""
    late: float
    """How long after that end it stops, in times to live: it looks late, or has to unload."""
    safety: float
    """How much earlier than the ledger its own clock ends the lease, in times to live."""
    on_outage: OnOutage


# A margin of a tenth is enough for the slow clock and the late holder below: 0.9 / 0.95 + 0.05 < 1.
# The exact client needs no margin, and stops in the very millisecond in which the ledger's time
# ends.
TEMPERS: Final = tuple(
    Temper(rate, late, safety, on_outage)
    for on_outage in OnOutage
    for rate, late, safety in ((1, 0, 0), (0.95, 0.05, 0.1), (1.05, 0, 0.1))
)
HELD: Final = {False: 1.0, True: 2 / 3}
"""How long a lease is held, in times to live, by whether others stand by.

If they do, one of them may follow after two missed heartbeats.
"""
MIN_STAY: Final = {others_stand_by: (held - 0.1) / 1.05 for others_stand_by, held in HELD.items()}
"""The earliest stop after the client's last call, in times to live."""


@dataclass
class Believer:
    """A client that uses its memory now."""

    vram_mb: int
    priority: int
    fence: int
    phase: str
    capacity: tuple[int | str, int | str]
    temper: Temper
    others_stand_by: bool = False
    loaded_mb: int = 0
    committed_mb: int | str = ""
    is_unloaded: bool = False
    """It has unloaded its model, and does not load it again under the same lease."""
    is_unprotected: bool = False
    """Its lease is over, and it goes on, as on a GPU of one's own."""
    ttl_ms: int = 0
    sent_at_ms: int = 0
    _left_ms: Callable[[], float] = field(default=lambda: 0.0)

    def load(self, in_part: bool) -> None:
        if not self.loaded_mb:
            self.loaded_mb = -(-self.vram_mb // 2) if in_part else self.vram_mb

    def unload(self) -> None:
        self.loaded_mb, self.is_unloaded = 0, True

    def resize(self, phase: str, committed_mb: int | str, vram_mb: int, grown_mb: int) -> None:
        """Take in the answer to a heartbeat; what is loaded fits into it.

        What the lease grows by, as its holder asked, is in use already.
        """
        self.phase, self.committed_mb, self.vram_mb = phase, committed_mb, vram_mb
        if self.loaded_mb:
            self.loaded_mb = min(self.loaded_mb + grown_mb, vram_mb)

    def hold(self, ttl_ms: int, sent_at_ms: int, redis_ms: Callable[[], int]) -> None:
        """Count the lease from when the call was sent, on the client's own clock.

        The times are in milliseconds, which are exact as floats.
        """
        rate, late_ms = self.temper.rate, self.temper.late * ttl_ms
        held_ms = lasts_s(ttl_ms, others_follow=self.others_stand_by, safety=self.temper.safety)
        self._left_ms = lambda: rate * sent_at_ms + held_ms - rate * (redis_ms() - late_ms)
        self.ttl_ms, self.sent_at_ms, self.is_unprotected = ttl_ms, sent_at_ms, False

    def goes_on(self, now_ms: int) -> bool:
        """Look at the client's clock; tell whether it still uses its memory."""
        if self.is_unprotected or self._left_ms() > 0:
            return True
        stay_ms = MIN_STAY[self.others_stand_by] * self.ttl_ms
        assert now_ms - self.sent_at_ms >= stay_ms, "invariant 6: it stopped before its time"
        self.is_unprotected = self.temper.on_outage is OnOutage.FAIL_OPEN
        return self.is_unprotected
