"""What a service asks of a GPU, and what the ledger answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from model_boss.errors import InvalidClaim

MAX_MB: Final = 2**31
MAX_PRIORITY: Final = 1000


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


class Priority(IntEnum):
    """Names for numbers from 0 to 1000; any other number may be given as well."""

    URGENT = 900
    HIGH = 700
    NORMAL = 500
    LOW = 300
    BATCH = 100

    @classmethod
    def parse(cls, text: str) -> int:
        """Read a name or a number.

        Raises:
            InvalidClaim: it is neither, or out of range.
        """
        if text.upper() in cls.__members__:
            return int(cls[text.upper()])
        if not (text.isascii() and text.isdecimal() and len(text) < 5 and int(text) <= MAX_PRIORITY):
            names = ", ".join(name.lower() for name in cls.__members__)
            raise InvalidClaim(f"{text!r} is no priority: {names}, or 0 to {MAX_PRIORITY}")
        return int(text)


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
    """So much memory of one GPU, for one model of one owner."""

    gpu: str
    lease_id: str
    owner: str
    model: str
    vram_mb: int
    """The most that the model will use, in MiB."""
    priority: int = Priority.NORMAL
    """0 to 1000; the higher is the more urgent."""
    holder: str = ""
    """The name of this process, where several ask for one lease: one of them holds it, the others stand by."""

    def __post_init__(self) -> None:
        if not self.lease_id or not self.owner:
            raise InvalidClaim("a claim needs a lease id and an owner")
        if not 1 <= self.vram_mb <= MAX_MB:
            raise InvalidClaim(f"vram_mb is {self.vram_mb}, expected 1 to {MAX_MB}")
        if not 0 <= self.priority <= MAX_PRIORITY:
            raise InvalidClaim(f"priority is {self.priority}, expected 0 to {MAX_PRIORITY}")


@dataclass(frozen=True)
class Capacity:
    """How much memory one GPU has, and how much of it is never granted, in MiB."""

    total_mb: int
    margin_mb: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.total_mb <= MAX_MB or not 0 <= self.margin_mb <= self.total_mb:
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
class Held:
    """Another process holds this lease; it hears with its next heartbeat that somebody asked."""

    holder: str
    fence: int
    phase: Phase

    def __str__(self) -> str:
        return f"held by {self.holder}"


@dataclass(frozen=True)
class Waiting:
    """The claim stands in the queue; `position` counts from 0."""

    position: int
    reason: WaitReason

    def __str__(self) -> str:
        return f"{self.reason}, position {self.position}"


@dataclass(frozen=True)
class Renewal:
    """The ledger's answer to a heartbeat; the rest is `None` where the lease is lost."""

    answer: Answer
    phase: Phase | None
    used_mb: int | None
    """What was committed; `None` where nothing was, or was forgotten."""
    wanted_s: float
    """For so long it counts yet that another process asked for this very lease; 0: none did."""
