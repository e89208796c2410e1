"""One lease as its holder sees it: asked for, held by a heartbeat, given back.

    async with Lease(ledger, claim) as lease:
        await lease.wait_granted(timeout_s=30)
        await lease.commit()                # once the model is loaded
        ending = await lease.wait_ending()  # YIELD: drain, then leave the block; LOST: stop at once

`tenure` tells how long it lasts without Redis.
"""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

from model_boss.errors import LeaseLost, LedgerUnavailable, NotGranted
from model_boss.tenure import Standing, Tenure, now_s

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from model_boss.claim import Claim, GpuLedger

_LOG: Final = logging.getLogger("model_boss")
_OURS: Final = frozenset({Standing.RESERVED, Standing.COMMITTED, Standing.YIELDING})


class Ending(StrEnum):
    """Why a holder has to let go."""

    YIELD = "yield"
    """Somebody asks for the memory: finish, unload, release. The lease lasts meanwhile."""
    LOST = "lost"
    """The lease is gone: stop now."""


class Lease:
    """A claim on its way through the ledger, for one grant; after its end, make another one.

    It ends with `lost` or `release`. `yield_asked` and `lost` are set once and stay set.

    Several processes may ask for one lease, each with the name of its own `Claim.holder`. One is
    granted, and the others wait until it is gone. The one that follows finds the lease `COMMITTED`
    if the model was loaded. If the model is not there, or is unloaded for any reason, release and
    claim anew: what is unloaded is not loaded again under the same lease.
    """

    def __init__(
        self,
        ledger: GpuLedger,
        claim: Claim,
        *,
        fail_open: bool = False,
        is_always_in_use: bool = False,
        clock: Callable[[], float] = now_s,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            ledger: who gives out the memory.
            claim: for how much, and for whom.
            fail_open: go on when the ledger is away for longer than the lease lasts, on a GPU of
                one's own, and ask it again when it is back; otherwise the lease is lost then.
            is_always_in_use: say so with every heartbeat, if one cannot tell when it is idle.
            clock: the holder's own, in seconds.
        """
        self.claim = claim
        self.yield_asked = asyncio.Event()
        self.lost = asyncio.Event()
        self._tenure = Tenure(ledger, fail_open=fail_open, clock=clock)
        self._held = _OURS | ({Standing.UNPROTECTED, Standing.DOUBTFUL} if fail_open else set())
        self._is_always_in_use = is_always_in_use
        self._is_touched = False
        self._used_mb: int | None = None  # once the model is loaded
        self._keeper: asyncio.Task[None] | None = None
        self._calls = asyncio.Lock()  # one call at a time, so that answers come in the ledger's order
        self._settled = asyncio.Event()  # granted, refused, lost or given back
        self._was_granted = self._is_over = False

    @property
    def standing(self) -> Standing:
        """How the lease stands."""
        return Standing.LOST if self.lost.is_set() else self._tenure.standing

    @property
    def is_held(self) -> bool:
        """Whether the memory may be used right now."""
        return self.standing in self._held

    @property
    def fence(self) -> int | None:
        """The fencing token, while the lease is held."""
        lease = self._tenure.lease
        return lease.fence if lease is not None and self.is_held else None

    @property
    def outage(self) -> str | None:
        """Why the last call did not reach the ledger; `None` if it did."""
        return self._tenure.outage

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    async def wait_granted(self, timeout_s: float | None = None) -> int:
        """Ask for the memory, wait for it, and return the fencing token.

        The place in the queue outlives the timeout: wait again, or `release` to leave it.

        Raises:
            NotGranted: `timeout_s` passed; its cause is `LedgerUnavailable` if Redis was not there.
            ClaimRefused: waiting would not help.
            LeaseLost: granted and lost before, or given back.
        """
        if self._keeper is None and not self._is_over:
            self._keeper = asyncio.create_task(self._keep(), name=f"lease {self.claim.lease_id}")
            self._keeper.add_done_callback(self._keeper_ended)
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            outage = None if self.outage is None else LedgerUnavailable(self.outage)
            raise NotGranted(f"lease {self.claim.lease_id}: not granted in {timeout_s:g} s") from outage
        if self._tenure.refusal and not self._was_granted:
            raise self._tenure.refusal
        if self.fence is None:
            raise LeaseLost(f"lease {self.claim.lease_id} is lost")
        return self.fence

    async def commit(self, used_mb: int | None = None) -> None:
        """Say that the model is loaded, and how much it was measured to use.

        If Redis is not there, a later heartbeat says so. The memory is set aside either way.

        Raises:
            LeaseLost: the lease is not held, or was lost meanwhile: unload.
        """
        self._used_mb = self.claim.vram_mb if used_mb is None else used_mb
        async with self._calls:
            if self.standing in _OURS:
                await self._tenure.commit(self._used_mb)
            self._note()
        if not self.is_held:
            raise LeaseLost(f"lease {self.claim.lease_id} was lost while its model was loaded")

    def touch(self) -> None:
        """Say that the lease is in use; the next heartbeat tells the ledger."""
        self._is_touched = True

    async def wait_ending(self) -> Ending:
        """Wait until the lease is asked for or lost; if both, it is lost."""
        waits = [asyncio.create_task(event.wait()) for event in (self.yield_asked, self.lost)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return Ending.LOST if self.lost.is_set() else Ending.YIELD

    async def release(self, heir: str = "") -> None:
        """Give back the memory, or leave the queue; if Redis is away, the lease ends by itself.

        It can also be given to an heir, another lease of the same owner; then it is never free.
        """
        async with self._calls:  # whatever is under way is answered first: it may be a grant
            keeper, self._keeper, self._is_over = self._keeper, None, True
            self._settled.set()
            if keeper is not None:
                keeper.cancel()
                await self._tenure.release(heir)

    async def _keep(self) -> None:
        while not self.lost.is_set() and not (self._tenure.refusal and not self._was_granted):
            async with self._calls:
                await self._step()
                self._note()
            await asyncio.sleep(self._tenure.due_in_s(is_urgent=not self._was_granted))
            self._note()

    async def _step(self) -> None:
        tenure = self._tenure
        if tenure.standing not in _OURS:
            await tenure.ask(self.claim)
            return
        is_touched, self._is_touched = self._is_touched, False
        if not await tenure.beat(in_use=is_touched or self._is_always_in_use):
            self._is_touched |= is_touched
        is_known = tenure.lease is None or tenure.lease.used_mb is not None
        if self._used_mb is not None and not is_known:  # committed in an outage, or forgotten in a failover
            await tenure.commit(self._used_mb)

    def _note(self) -> None:
        """Tell the waiting calls what has become of the lease."""
        if self.lost.is_set():
            return
        if self.is_held:
            self._was_granted = True
        elif self._was_granted:
            _LOG.error("lease %s: lost, %s", self.claim.lease_id, self.outage or self._tenure.standing)
            self.lost.set()
        if self._tenure.standing is Standing.YIELDING:
            self.yield_asked.set()
        if self._was_granted or self._tenure.refusal:
            self._settled.set()

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and keeper.exception():  # a defect: nobody renews any more
            _LOG.error("lease %s: lost, %r", self.claim.lease_id, keeper.exception())
            self.lost.set()
            self._settled.set()
