"""How a client takes part in a ledger."""

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
    """Prefix and time to live, on which all clients agree, and each client's own choices."""

    prefix: str = "model-boss"
    ttl_s: float = 15.0
    """The time to live of every lease in this ledger."""
    timeout_s: float = 2.0
    """The deadline of one call, connecting and one retry included."""
    meter: Meter | None = None
    """Measures the GPU with a holder's calls, so that the ledger sees memory that is used without a
    lease.
    """
    margin_mb: int = 512
    """Memory that is never granted, if the meter is the first to say how much there is."""

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
    """Stop, because somebody else may hold the memory."""
    FAIL_OPEN = "fail_open"
    """Go on, on a GPU of one's own, and ask for a lease again when the ledger is back."""
