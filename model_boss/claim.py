"""What a service asks of a GPU, and what the ledger answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from model_boss.errors import InvalidClaim

MOST_MB: Final = 2**31
MOST_PRIORITY: Final = 1000


class Phase(StrEnum):
    """Where a lease stands in its life."""

    WAITING = "waiting"
    RESERVED = "reserved"
    ACTIVE = "active"
    YIELDING = "yielding"


class Answer(StrEnum):
    """What the ledger says to a holder."""

    OK = "ok"
    YIELD = "yield"
    LOST = "lost"


class WaitReason(StrEnum):
    """Why a claim has to wait."""

    GRACE = "grace"
    """The ledger has just begun and grants nothing until its former holders had time to come back."""
    QUEUE = "queue"
    """Others stand before it."""
    MEMORY = "memory"
    """It is the first, and does not fit yet."""


@dataclass(frozen=True)
class Claim:
    """So much memory of one GPU, for one model of one owner.

    Whoever uses the same `lease_id` and `owner` shares the lease.
    """

    gpu: str
    lease_id: str
    owner: str
    model: str
    vram_mb: int
    """The most that the model will use, in MiB."""
    priority: int = 500
    """0 to 1000; the higher is the more urgent."""

    def __post_init__(self) -> None:
        if not self.lease_id or not self.owner:
            raise InvalidClaim("a claim needs a lease id and an owner")
        if not 1 <= self.vram_mb <= MOST_MB:
            raise InvalidClaim(f"vram_mb is {self.vram_mb}, expected 1 to {MOST_MB}")
        if not 0 <= self.priority <= MOST_PRIORITY:
            raise InvalidClaim(f"priority is {self.priority}, expected 0 to {MOST_PRIORITY}")


@dataclass(frozen=True)
class Capacity:
    """How much memory one GPU has, and how much of it is never granted, in MiB."""

    total_mb: int
    margin_mb: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.total_mb <= MOST_MB or not 0 <= self.margin_mb <= self.total_mb:
            raise InvalidClaim(f"a capacity of {self.total_mb} MiB with a margin of {self.margin_mb} MiB")


@dataclass(frozen=True)
class Granted:
    """The memory is set aside, under this fencing token."""

    fence: int
    phase: Phase
    """`RESERVED`; or another, where the same owner holds the lease already and has the model loaded."""
    used_mb: int | None
    """What was committed; `None` where nothing was."""
    capacity: Capacity | None
    """What the ledger knew when it granted; a holder brings it along after a restart of Redis."""


@dataclass(frozen=True)
class Waiting:
    """The claim stands in the queue; `position` counts from 0."""

    position: int
    reason: WaitReason


@dataclass(frozen=True)
class Renewal:
    """The ledger's answer to a heartbeat; the rest is `None` where the lease is lost."""

    answer: Answer
    phase: Phase | None
    used_mb: int | None
    """What was committed; `None` where nothing was, or was forgotten."""


@dataclass(frozen=True)
class Shared:
    """The ledger's answer to one of those who share a lease."""

    answer: Answer
    others: int
    """How many sharers are at work or unload besides this one; 0 where the lease is lost."""
