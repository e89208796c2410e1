"""What a service asks of a GPU, and what the ledger answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, Protocol

from model_boss.errors import InvalidClaim

MAX_MB: Final = 2**31
MAX_PRIORITY: Final = 1000
MAX_NAME_BYTES: Final = 200


class Phase(StrEnum):
    """The phases of a lease's life."""

    WAITING = "waiting"
    RESERVED = "reserved"
    ACTIVE = "active"
    YIELDING = "yielding"


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
    """The ledger has just begun, and its former holders have time to come back."""
    QUEUE = "queue"
    """Others are before it in the queue."""
    MEMORY = "memory"
    """It is the first in the queue, but does not fit yet."""


@dataclass(frozen=True)
class Claim:
    """An amount of memory of one GPU, for one model of one owner."""

    gpu: str
    lease_id: str
    owner: str
    model: str
    vram_mb: int
    """The most that the model will use, in MiB."""
    priority: int = Priority.NORMAL
    """0 to 1000; a higher number is more urgent."""
    holder: str = ""
    """The name of this process if several ask for one lease: one holds it, the others stand by."""

    def __post_init__(self) -> None:
        if not self.lease_id or not self.owner:
            raise InvalidClaim("a claim needs a lease id and an owner")
        for name in (self.lease_id, self.owner, self.model, self.holder):
            if len(name.encode()) > MAX_NAME_BYTES:
                raise InvalidClaim(f"{name[:20]!r}... has more than {MAX_NAME_BYTES} bytes")
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
    """The memory is set aside for this process, under this fencing token."""

    fence: int
    phase: Phase = Phase.RESERVED
    """Another phase if the lease was held before and the model is loaded."""
    used_mb: int | None = None
    """The committed use; `None` if nothing was committed, or if it was forgotten."""
    vram_mb: int | None = None
    """The size that is set aside, which may be another than was claimed."""
    capacity: Capacity | None = None
    """What the ledger knew at the grant; a holder brings it back after a restart of Redis."""
    others_stand_by: bool = False
    """Another process lately asked for this same lease."""


@dataclass(frozen=True)
class Held:
    """Another process holds this lease; its next heartbeat tells it that somebody asked."""

    holder: str
    fence: int


@dataclass(frozen=True)
class Waiting:
    """The claim stands in the queue; `position` counts from 0."""

    position: int = 0
    reason: WaitReason = WaitReason.MEMORY


class GpuLedger(Protocol):
    """Whoever gives out a GPU's memory: `Ledger`, or another coordinator behind an adapter.

    Every call answers or fails within seconds, and may be repeated. Every call may raise
    `LedgerUnavailable`. A lease that is not renewed for `ttl_s` ends. Another process of the same
    lease may follow after two thirds of that, or when the holder hands over. It then has a new
    fence, and the memory is not freed. `None` instead of a grant means that the lease is no longer
    this process's.
    """

    @property
    def ttl_s(self) -> float:
        """How long a lease lasts after a heartbeat."""

    async def reserve(self, claim: Claim) -> Granted | Held | Waiting:
        """Ask for the lease, or keep its place in the queue; its holder is granted it again.

        Raises:
            ClaimRefused: waiting would not help.
        """

    async def commit(self, claim: Claim, granted: Granted, used_mb: int | None = None) -> Granted | None:
        """Say that the model is loaded, and how much it was measured to use."""

    async def renew(self, claim: Claim, granted: Granted, *, in_use: bool) -> Granted | None:
        """Hold the lease for `ttl_s` from now; `in_use` tells of use since the last call.

        `claim.vram_mb` is what is needed now; the grant says what is set aside.
        """

    async def release(self, claim: Claim, fence: int, heir: str = "") -> object:
        """Give back the memory, which must be free, or give it to an heir.

        An heir is another lease of the same owner. With fence 0, leave the queue.
        """

    async def hand_over(self, claim: Claim, fence: int) -> object:
        """Let the next process that asks follow at once."""

    async def room_mb(self, gpu: str) -> int | None:
        """Return how much this GPU may give at most; `None` if nobody has said."""

    async def aclose(self) -> None:
        """Close what is open."""
