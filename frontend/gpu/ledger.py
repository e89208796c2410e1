"""What the keeper needs of whoever gives out the GPU's memory, and how model-boss gives it.

Another coordinator takes model-boss's place by `AESTHETIC_GPU_LEDGER=package.module:factory`; the
factory is called with the GPU's name and returns a `GpuLedger`. `docs/gpu-sharing.md` shows one.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

import model_boss
from frontend.gpu.errors import LedgerRefuses, LedgerUnavailable
from model_boss import (
    Answer,
    Capacity,
    ClaimConflict,
    ClaimRefused,
    Gauge,
    Granted,
    LeaseOptions,
    Nvml,
    Phase,
)
from model_boss import Held as HeldInRedis

if TYPE_CHECKING:
    from collections.abc import Iterator

OWNER: Final = "imajin-aesthetic"


@dataclass(frozen=True)
class Claim:
    """What this frontend asks for."""

    lease_id: str
    """Of the Triton server: all its frontends ask for the same lease."""
    holder: str
    """Of this frontend."""
    model: str
    vram_mb: int
    priority: int


@dataclass(frozen=True)
class Lease:
    """This frontend holds the lease, under this fencing token."""

    fence: int
    is_committed: bool = False
    is_asked_back: bool = False
    others_stand_by: bool = False
    """Another frontend asked for it lately."""


@dataclass(frozen=True)
class Held:
    """Another frontend holds it."""

    holder: str
    fence: int


@dataclass(frozen=True)
class Queued:
    """The memory is not to be had yet."""

    is_settling: bool = False
    """The ledger has just begun: whoever held this lease may not have come back yet."""


@dataclass(frozen=True)
class Table:
    """What the ledger knows of the GPU."""

    room_mb: int | None
    """How much it may give at most; None: it does not know."""


class GpuLedger(Protocol):
    """Leases with a heartbeat; every call answers or fails within seconds, and may be repeated.

    Every method may raise `LedgerUnavailable`. `None` for a lease: it is not this frontend's any more.
    A lease that is not renewed for `ttl_s` ends. The ledger may let another frontend follow after
    two thirds of that, or when the holder hands over: under a new fence, without freeing the memory.
    """

    ttl_s: float

    async def reserve(self, claim: Claim) -> Lease | Held | Queued:
        """Ask for the lease, or keep its place in the queue; who holds it is answered the lease.

        Raises:
            LedgerRefuses: waiting would not help.
        """

    async def commit(self, claim: Claim, fence: int) -> Lease | None:
        """Say that the model is loaded."""

    async def renew(self, claim: Claim, fence: int, *, in_use: bool) -> Lease | None:
        """Hold the lease for `ttl_s` from now; `in_use`: since the last call."""

    async def release(self, claim: Claim, fence: int) -> None:
        """Give the memory back: it is free."""

    async def hand_over(self, claim: Claim, fence: int) -> None:
        """Let the next frontend that asks follow at once."""

    async def table(self) -> Table:
        """Report the GPU."""

    async def aclose(self) -> None:
        """Close what is open."""


def load_ledger(name: str, gpu: str) -> GpuLedger:
    """Build the ledger that a `package.module:factory` names.

    Raises:
        ValueError: it names none.
    """
    module, _, factory = name.partition(":")
    try:
        build = getattr(import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} is not package.module:factory: {error}") from error
    ledger: GpuLedger = build(gpu)
    return ledger


class ModelBossLedger:
    """One GPU of a model-boss ledger."""

    def __init__(self, ledger: model_boss.Ledger, gpu: str) -> None:
        self.ttl_s = ledger.options.ttl_s
        self._ledger = ledger
        self._gpu = gpu
        self._meter, self._margin_mb = Nvml(), LeaseOptions.margin_mb
        self._gauge = Gauge(ledger, gpu, self._meter, self._margin_mb)
        # What a ledger that lost its memory is reminded of.
        self._claim: model_boss.Claim | None = None
        self._phase = Phase.RESERVED
        self._used_mb: int | None = None
        self._capacity: Capacity | None = None

    async def reserve(self, claim: Claim) -> Lease | Held | Queued:
        with _translated():
            await self._gauge.measure()
            self._claim = self._read(claim)
            try:
                answer = await self._ledger.reserve(self._claim)
            except ClaimRefused as error:
                row = await self._find(self._claim)
                if row is None:
                    raise
                if not isinstance(error, ClaimConflict):
                    return Held(row.holder, row.fence)
                # A frontend with other settings asked for another size of the same lease.
                self._claim = replace(self._claim, vram_mb=row.vram_mb, priority=row.priority)
                answer = await self._ledger.reserve(self._claim)
        if isinstance(answer, HeldInRedis):
            return Held(answer.holder, answer.fence)
        if not isinstance(answer, Granted):
            return Queued(is_settling=answer.reason is model_boss.WaitReason.GRACE)
        self._phase, self._used_mb = answer.phase, answer.used_mb
        self._capacity = answer.capacity or self._capacity
        return self._lease(answer.fence)

    async def commit(self, claim: Claim, fence: int) -> Lease | None:
        with _translated():
            answer = await self._ledger.commit(self._own(claim), fence)
        if answer is Answer.LOST:
            return None
        self._used_mb = self._own(claim).vram_mb
        self._phase = Phase.YIELDING if answer is Answer.YIELD else Phase.ACTIVE
        return self._lease(fence)

    async def renew(self, claim: Claim, fence: int, *, in_use: bool) -> Lease | None:
        with _translated():
            renewal = await self._ledger.renew(
                self._own(claim),
                fence,
                phase=self._phase,
                in_use=in_use,
                used_mb=self._used_mb,
                capacity=self._capacity,
            )
            if renewal.phase is None:
                return None
            self._phase, self._used_mb = renewal.phase, renewal.used_mb
            await self._gauge.refresh()
        return self._lease(fence, others_stand_by=renewal.wanted_s > 0)

    async def release(self, claim: Claim, fence: int) -> None:
        with _translated():
            await self._ledger.release(self._own(claim), fence)
            await self._gauge.measure()

    async def hand_over(self, claim: Claim, fence: int) -> None:
        with _translated():
            await self._ledger.hand_over(self._own(claim), fence)

    async def table(self) -> Table:
        with _translated():
            table = await self._ledger.table(self._gpu)
            capacity = None if table.total_mb is None else Capacity(table.total_mb, table.margin_mb or 0)
            if capacity is None:
                capacity = await self._ledger.measure(self._gpu, self._meter, self._margin_mb)
        return Table(None if capacity is None else capacity.total_mb - capacity.margin_mb)

    async def aclose(self) -> None:
        await self._ledger.aclose()

    async def _find(self, claim: model_boss.Claim) -> model_boss.Row | None:
        table = await self._ledger.table(self._gpu)
        rows = (*table.leases, *table.waiters)
        return next((row for row in rows if (row.lease_id, row.owner) == (claim.lease_id, claim.owner)), None)

    def _read(self, claim: Claim) -> model_boss.Claim:
        return model_boss.Claim(
            self._gpu, claim.lease_id, OWNER, claim.model, claim.vram_mb, claim.priority, claim.holder
        )

    def _own(self, claim: Claim) -> model_boss.Claim:
        return self._claim or self._read(claim)

    def _lease(self, fence: int, *, others_stand_by: bool = False) -> Lease:
        is_committed = self._used_mb is not None
        return Lease(fence, is_committed, self._phase is Phase.YIELDING, others_stand_by)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (model_boss.LedgerUnavailable, TimeoutError) as error:
        raise LedgerUnavailable(str(error) or "the GPU's driver hangs") from error
    except ClaimRefused as error:
        raise LedgerRefuses(f"{type(error).__name__}: {error}") from error
