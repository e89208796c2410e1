"""How a client takes part: what all clients of a ledger agree on, and what each holder chooses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from model_boss.errors import InvalidClaim

if TYPE_CHECKING:
    from model_boss.memory import Meter

MAX_TTL_S: Final = 3600


@dataclass(frozen=True)
class LedgerOptions:
    """What every client of one ledger has to agree on, and how long it waits for Redis."""

    prefix: str = "model-boss"
    ttl_s: float = 15.0
    """The time to live of every lease in this ledger."""
    timeout_s: float = 2.0
    """The deadline of one call, connecting and one retry included."""

    def __post_init__(self) -> None:
        if not 0.001 <= self.ttl_s <= MAX_TTL_S:
            raise InvalidClaim(f"ttl_s is {self.ttl_s}, expected 0.001 to {MAX_TTL_S}")
        if not self.timeout_s > 0:
            raise InvalidClaim(f"timeout_s is {self.timeout_s}, expected more than 0")

    @property
    def ttl_ms(self) -> int:
        return round(self.ttl_s * 1000)


class OnOutage(StrEnum):
    """What a holder does when Redis stays unreachable for as long as its lease lasts."""

    FAIL_CLOSED = "fail_closed"
    """Stop, for somebody else may hold the memory."""
    FAIL_OPEN = "fail_open"
    """Go on, on a GPU of one's own, and enter the ledger again when it is back."""


@dataclass(frozen=True)
class LeaseOptions:
    """How a holder keeps its lease."""

    on_outage: OnOutage = OnOutage.FAIL_CLOSED
    poll_s: float = 0.25
    """Between two looks at the queue while waiting, give or take a half."""
    safety_s: float | None = None
    """How much earlier than the ledger the holder's own clock ends the lease; a tenth of the time to live."""
    meter: Meter | None = None
    """Measures the GPU with every heartbeat, so that the ledger sees what others use outside it."""
    is_always_in_use: bool = False
    """Say with every heartbeat that the lease is in use: for a holder that cannot tell when it is idle."""
    margin_mb: int = 512
    """Never granted, where the meter is the first to say how much memory there is."""

    def safety_of(self, ttl_s: float) -> float:
        """Return the safety margin in seconds.

        Raises:
            InvalidClaim: it leaves nothing of the time to live.
        """
        safety_s = ttl_s / 10 if self.safety_s is None else self.safety_s
        if not 0 <= safety_s < ttl_s:
            raise InvalidClaim(f"a safety margin of {safety_s} s in a time to live of {ttl_s} s")
        return safety_s
