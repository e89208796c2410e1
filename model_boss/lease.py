"""One lease as its holder sees it: asked for, held by a heartbeat, given back.

    async with Lease(ledger, claim) as lease:
        await lease.wait_granted(timeout_s=30)
        await lease.commit()                    # once the model is loaded
        ending = await lease.wait_ending()      # YIELD: drain, then leave the block; LOST: stop at once

The race that the clock settles, for a time to live of 15 s and a safety margin of 1.5 s:

    0.0  the holder sends a renewal; Redis receives it at 0.1 and holds the lease until 15.1
    5.0  the next renewal finds no Redis, nor do those after it
    13.5 the holder's own clock: 0.0 + 15 - 1.5. It stops (`fail_closed`) and has 1.6 s to be gone
    15.1 the ledger gives the memory to somebody else
"""

from __future__ import annotations

import asyncio
import logging
import random
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

from model_boss.claim import Answer, Granted, Phase
from model_boss.clock import Term, now_s
from model_boss.errors import ClaimRefused, LeaseLost, LedgerUnavailable, NotGranted
from model_boss.gauge import Gauge
from model_boss.options import LeaseOptions, OnOutage

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from model_boss.claim import Capacity, Claim, Renewal
    from model_boss.ledger import Ledger

_LOG: Final = logging.getLogger("model_boss")


class Ending(StrEnum):
    """Why a holder has to let go."""

    YIELD = "yield"
    """Somebody asks for the memory: drain, unload, release; the lease lasts meanwhile."""
    LOST = "lost"
    """The lease is gone: stop now."""


class Lease:
    """A claim on its way through the ledger. Serves one grant: after `lost` or `release`, make another.

    `yield_asked` and `lost` are set once and stay set. Where several processes ask for one lease, each under
    the name of a `Claim.holder` of its own, one is granted and the others wait until it is gone; who follows
    finds the phase `ACTIVE` where the model was loaded. If it is not there, or is unloaded for whatever
    reason, release and claim anew: what is unloaded is not loaded again under the same lease.
    """

    def __init__(self, ledger: Ledger, claim: Claim, options: LeaseOptions | None = None) -> None:
        self.claim = claim
        self.yield_asked = asyncio.Event()
        self.lost = asyncio.Event()
        self._ledger = ledger
        self._options = options or LeaseOptions()
        self._ttl_s = ledger.options.ttl_s
        # Where others stand by, one of them may hold the lease after two missed heartbeats.
        held_s = self._ttl_s * 2 / 3 if claim.holder else self._ttl_s
        self._term = Term(held_s, self._options.safety_of(self._ttl_s))
        self._gauge = Gauge(ledger, claim.gpu, self._options.meter, self._options.margin_mb)
        self._keeper: asyncio.Task[None] | None = None
        self._is_over = False
        self._calls = asyncio.Lock()  # one call at a time, so that answers come in the ledger's order
        self._settled = asyncio.Event()  # granted, refused or lost
        self._refusal: ClaimRefused | None = None
        self._outage: LedgerUnavailable | None = None
        self._phase: Phase | None = None
        self._fence: int | None = None
        self._capacity: Capacity | None = None
        self._used_mb: int | None = None  # once committed
        self._is_unprotected = False
        self._is_touched = False

    @property
    def phase(self) -> Phase | None:
        """Where the lease stands; `None` before it was asked for, and after its end."""
        return self._phase

    @property
    def fence(self) -> int | None:
        """The fencing token, while the lease is held."""
        return self._fence

    @property
    def is_held(self) -> bool:
        """Whether the memory may be used right now."""
        return self._fence is not None and (self._is_unprotected or self._term.left_s() > 0)

    @property
    def expires_in_s(self) -> float | None:
        """How long the lease lasts by the holder's own clock if no heartbeat succeeds; `None`: not held."""
        return None if self._fence is None else max(0.0, self._term.left_s())

    @property
    def is_unprotected(self) -> bool:
        """Whether the holder goes on without a lease, by `fail_open`."""
        return self._is_unprotected

    @property
    def outage(self) -> LedgerUnavailable | None:
        """Why the last call did not reach the ledger; `None` where it did."""
        return self._outage

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
            NotGranted: `timeout_s` went by, caused by `LedgerUnavailable` where Redis was not there.
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
            raise NotGranted(f"lease {self.claim.lease_id}: not granted in {timeout_s:g} s") from self._outage
        if self._refusal:
            raise self._refusal
        if self._fence is None:
            raise LeaseLost(f"lease {self.claim.lease_id} is lost")
        return self._fence

    async def commit(self, used_mb: int | None = None) -> None:
        """Say that the model is loaded, and how much it was measured to use.

        Where Redis is not there, a later heartbeat says so: the memory is set aside either way.

        Raises:
            LeaseLost: the lease is not held, or was lost meanwhile: unload.
        """
        self._used_mb = self.claim.vram_mb if used_mb is None else used_mb
        async with self._calls:
            self._check_own_clock()
            await self._reaching_ledger(self._commit())
        if self.lost.is_set():
            raise LeaseLost(f"lease {self.claim.lease_id} was lost while its model was loaded")

    def touch(self) -> None:
        """Say that the lease is in use; told to the ledger with the next heartbeat."""
        self._is_touched = True

    async def wait_ending(self) -> Ending:
        """Wait until the lease is asked for or lost; lost, if both."""
        waits = [asyncio.create_task(event.wait()) for event in (self.yield_asked, self.lost)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return Ending.LOST if self.lost.is_set() else Ending.YIELD

    async def release(self) -> None:
        """Give the memory back, or leave the queue. Where Redis is not there, the lease expires by itself."""
        async with self._calls:  # whatever is under way is answered first: it may be a grant
            keeper, self._keeper = self._keeper, None
            self._is_over = True
            self._settled.set()
            if keeper is None:
                return
            keeper.cancel()
            fence, needs_no_word = self._fence, self.lost.is_set() or self._refusal is not None
            self._fence = self._phase = None
            if needs_no_word:
                return
            try:
                if fence is None:
                    answer = await self._ledger.cancel(self.claim)
                    _LOG.info("lease %s: left the queue, %s", self.claim.lease_id, answer)
                else:
                    answer = await self._ledger.release(self.claim, fence)
                    _LOG.info("lease %s: released, %s", self.claim.lease_id, answer)
                    await self._gauge.measure()
            except LedgerUnavailable as error:
                _LOG.warning("lease %s: not released, it will expire: %s", self.claim.lease_id, error)

    async def _keep(self) -> None:
        while not self.lost.is_set() and self._refusal is None:
            began_at_s = now_s()
            async with self._calls:
                await self._reaching_ledger(self._beat())
            self._check_own_clock()
            await asyncio.sleep(self._pause_s(began_at_s))
            self._check_own_clock()

    async def _beat(self) -> None:
        if self._fence is None:
            await self._gauge.measure()  # what was released since would look foreign
            await self._ask()
        else:
            await self._renew()
            await self._gauge.refresh()

    async def _reaching_ledger(self, call: Coroutine[None, None, None]) -> None:
        """Await the call for as long as the lease lasts; note whether Redis was there."""
        left_s = self._term.left_s() if self.is_held and not self._is_unprotected else None
        try:
            async with asyncio.timeout(left_s):
                await call
        except (LedgerUnavailable, TimeoutError) as error:
            self._note_outage(error)
        except ClaimRefused as error:
            self._refuse(error)
        else:
            if self._outage:
                _LOG.info("lease %s: the ledger is back", self.claim.lease_id)
            self._outage = None

    async def _ask(self) -> None:
        sent_at_s = now_s()
        answer = await self._ledger.reserve(self.claim)
        if isinstance(answer, Granted):
            self._hold(answer, sent_at_s)
            return
        if self._phase is None:
            _LOG.info("lease %s: waits, %s", self.claim.lease_id, answer)
            self._phase = Phase.WAITING

    async def _renew(self) -> None:
        sent_at_s = now_s()
        renewal = await self._renewal()
        if renewal.answer is Answer.LOST:
            await self._enter_again_or_lose()
            return
        self._term.begin(sent_at_s)
        self._is_unprotected = False
        self._is_touched = False
        self._follow(renewal.phase)
        if renewal.used_mb is not None:
            self._used_mb = renewal.used_mb
        elif self._used_mb is not None:  # a failover forgot it
            await self._commit()

    async def _renewal(self) -> Renewal:
        phase = self._phase or Phase.RESERVED
        if phase is Phase.RESERVED and self._used_mb is not None:  # committed while Redis was gone
            phase = Phase.ACTIVE
        return await self._ledger.renew(
            self.claim,
            self._held_fence(),
            phase=phase,
            in_use=self._is_touched or self._options.is_always_in_use,
            used_mb=self._used_mb,
            capacity=self._capacity,
        )

    async def _commit(self) -> None:
        answer = await self._ledger.commit(self.claim, self._held_fence(), self._used_mb)
        if answer is Answer.LOST and (await self._renewal()).answer is not Answer.LOST:
            # Redis had begun again with empty memory, and the renewal brought the lease back.
            answer = await self._ledger.commit(self.claim, self._held_fence(), self._used_mb)
        if answer is not Answer.LOST:
            self._follow(Phase.YIELDING if answer is Answer.YIELD else Phase.ACTIVE)
        elif not self._is_unprotected:  # else a heartbeat enters the ledger again
            self._lose("the ledger says so")

    async def _enter_again_or_lose(self) -> None:
        if not self._is_unprotected:
            self._lose("the ledger says so")
            return
        sent_at_s = now_s()
        answer = await self._ledger.reserve(self.claim)
        if isinstance(answer, Granted):
            self._is_unprotected = False
            self._hold(answer, sent_at_s)

    def _hold(self, granted: Granted, sent_at_s: float) -> None:
        self._fence = granted.fence
        self._capacity = granted.capacity or self._capacity
        if granted.used_mb is not None:
            self._used_mb = granted.used_mb
        self._term.begin(sent_at_s)
        _LOG.info("lease %s: granted, fence %d", self.claim.lease_id, granted.fence)
        self._follow(granted.phase)
        self._settled.set()

    def _follow(self, phase: Phase | None) -> None:
        if phase is not self._phase:
            _LOG.info("lease %s: %s", self.claim.lease_id, phase)
        self._phase = phase
        if phase is Phase.YIELDING:
            self.yield_asked.set()

    def _note_outage(self, error: Exception) -> None:
        why = str(error) or "no answer for as long as the lease lasts"
        if self._outage is None:
            _LOG.warning("lease %s: the ledger is not there: %s", self.claim.lease_id, why)
        self._outage = LedgerUnavailable(why)

    def _refuse(self, error: ClaimRefused) -> None:
        if self._is_unprotected:
            self._note_outage(error)
            return
        if self._fence is not None:
            self._lose(str(error))
            return
        self._phase = None
        self._refusal = error
        self._settled.set()

    def _check_own_clock(self) -> None:
        if self._fence is None or self._is_unprotected or self._term.left_s() > 0:
            return
        if self._options.on_outage is OnOutage.FAIL_OPEN:
            _LOG.error("lease %s: expired by its own clock; going on without it", self.claim.lease_id)
            self._is_unprotected = True
        else:
            self._lose("expired by its own clock")

    def _lose(self, reason: str) -> None:
        _LOG.error("lease %s: lost, fence %s: %s", self.claim.lease_id, self._fence, reason)
        self._fence = self._phase = None
        self.lost.set()
        self._settled.set()

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and keeper.exception():  # a defect: nobody renews any more
            self._lose(repr(keeper.exception()))

    def _pause_s(self, began_at_s: float) -> float:
        if self._fence is None:
            return self._options.poll_s * random.uniform(0.5, 1.5)  # noqa: S311 - spreads the waiters
        is_well = self._outage is None and not self._is_unprotected
        pause_s = began_at_s - now_s() + (self._ttl_s / 3 if is_well else min(self._ttl_s / 10, 1.0))
        return max(0.0, pause_s if self._is_unprotected else min(pause_s, self._term.left_s()))

    def _held_fence(self) -> int:
        if self._fence is None:
            raise LeaseLost(f"lease {self.claim.lease_id} is not held")
        return self._fence
