"""What a frontend holds of the lease, and how long it may rely on it by its own clock.

Three moments follow a heartbeat, for a time to live of 15 s and a safety margin of 1.5 s:

     0.0  a renewal is sent; the ledger counts from when it arrives
     8.5  2/3 of 15 - 1.5. From 10.0 on another frontend may follow. Doubtful: this one loads nothing now
    13.5  15 - 1.5: from 15.0 on the memory may be another's. Lost: the model has 1.5 s to be gone
          (`fail_open`: unprotected; it goes on)
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final, TypeVar

from frontend.gpu.decide import Standing
from frontend.gpu.errors import LedgerRefuses, LedgerUnavailable
from frontend.gpu.ledger import Held, Lease, Queued
from model_boss import Term
from model_boss.clock import now_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from frontend.gpu.ledger import Claim, GpuLedger

T = TypeVar("T")

_LOG: Final = logging.getLogger("imajin_aesthetic.gpu")
_POLL_S: Final = 0.25


class Tenure:
    """Asks the ledger, keeps its answers, and knows when they are over."""

    def __init__(self, ledger: GpuLedger, *, fail_open: bool, clock: Callable[[], float] = now_s) -> None:
        self.claim: Claim | None = None
        self.lease: Lease | None = None
        self.others: Held | None = None
        """The frontend that holds the lease, as this one was told when it asked."""
        self.outage: str | None = None
        """Why the ledger was not reached the last time."""
        self.refusal: LedgerRefuses | None = None
        self.handed_over = False
        self._ledger = ledger
        self._fail_open = fail_open
        self._now_s = clock
        ttl_s, safety_s = ledger.ttl_s, ledger.ttl_s / 10
        self._holder_term = Term(ttl_s * 2 / 3, safety_s, clock)
        self._memory_term = Term(ttl_s, safety_s, clock)
        self._answer = Standing.NONE
        self._told_at_s = 0.0
        self._due_at_s = 0.0
        self._outage_began_at_s = 0.0

    @property
    def standing(self) -> Standing:
        """Say how the lease stands now."""
        if self.lease is None:
            stale = self._answer is Standing.OTHERS and self._now_s() - self._told_at_s > self._ledger.ttl_s
            return Standing.NONE if stale else self._answer
        if self._memory_term.left_s() <= 0:
            return Standing.UNPROTECTED if self._fail_open else Standing.LOST
        if self._holder_term.left_s() <= 0:
            return Standing.DOUBTFUL
        if self.lease.is_asked_back:
            return Standing.YIELDING
        return Standing.COMMITTED if self.lease.is_committed else Standing.RESERVED

    @property
    def expires_in_s(self) -> float | None:
        """How long the memory is ours if no heartbeat succeeds any more; None: it is not."""
        return None if self.lease is None else max(0.0, self._memory_term.left_s())

    @property
    def outage_s(self) -> float:
        """For how long the ledger has been out of reach; 0: it is in reach."""
        return 0.0 if self.outage is None else self._now_s() - self._outage_began_at_s

    def due_in_s(self, *, is_urgent: bool) -> float:
        """How long until the ledger is asked again, or a term ends; urgent: a request waits."""
        due_at_s = self._due_at_s
        if is_urgent and not self.handed_over:
            due_at_s = min(due_at_s, self._told_at_s + _POLL_S)
        ends = [due_at_s - self._now_s()]
        if self.lease is not None:
            ends += [
                left_s for term in (self._holder_term, self._memory_term) if (left_s := term.left_s()) > 0
            ]
        return max(0.0, min(ends))

    async def beat(self, *, in_use: bool) -> bool:
        """Renew, if it is time and the lease is ours without doubt; tell whether it was renewed."""
        if self.lease is None or self._now_s() < self._due_at_s or self._holder_term.left_s() <= 0:
            return False
        sent_at_s, self._due_at_s = self._now_s(), self._now_s() + self._ledger.ttl_s / 3
        renewal = self._ledger.renew(self._claimed(), self.lease.fence, in_use=in_use)
        try:
            self._take(await self._reached(renewal), sent_at_s)
        except LedgerUnavailable:
            return False
        except LedgerRefuses as error:  # another ledger by now, so to speak
            self._note_outage(error)
            return False
        return True

    async def ask(self, claim: Claim) -> None:
        """Ask for the lease, for its place in the queue, or who holds it."""
        self.claim, sent_at_s = claim, self._now_s()
        try:
            answer = await self._reached(self._ledger.reserve(claim))
        except LedgerUnavailable:
            self._told_at_s = self._now_s()
            return
        except LedgerRefuses as error:
            self.refusal, self._due_at_s = error, self._now_s() + self._ledger.ttl_s / 3
            self._stand(Standing.REFUSED)
            return
        self.refusal, self.others = None, answer if isinstance(answer, Held) else None
        self._due_at_s = self._now_s() + self._ledger.ttl_s / 3
        match answer:
            case Lease():
                self._take(answer, sent_at_s)
                self.handed_over = False
                _LOG.info("lease %s: granted, fence %d", claim.lease_id, answer.fence)
            case Held():
                self._stand(Standing.OTHERS)
                self.handed_over = False
            case Queued():
                self._due_at_s = self._now_s() + _POLL_S * random.uniform(0.5, 1.5)  # noqa: S311 - spreads the waiters
                self._stand(Standing.SETTLING if answer.is_settling else Standing.QUEUED)

    async def commit(self) -> None:
        """Say that the model is loaded; a ledger that forgot the lease is reminded first."""
        assert self.lease is not None
        sent_at_s, fence = self._now_s(), self.lease.fence
        try:
            lease = await self._reached(self._ledger.commit(self._claimed(), fence))
            if lease is None:
                lease = await self._reached(self._ledger.renew(self._claimed(), fence, in_use=True))
        except LedgerUnavailable:
            return
        self._take(lease, sent_at_s, is_renewed=False)

    async def release(self) -> None:
        """Give the memory back, which is free; what cannot be told ends by itself."""
        await self._part(self._ledger.release)

    async def hand_over(self) -> None:
        """Let another frontend follow; ask again a little later whether one did."""
        await self._part(self._ledger.hand_over)
        self.handed_over = True
        self._due_at_s = self._now_s() + self._ledger.ttl_s / 3 + min(1.0, self._ledger.ttl_s / 10)

    def forget_answer(self) -> None:
        """Take nothing for granted that was said before the model came or went."""
        if self._answer in (Standing.QUEUED, Standing.REFUSED):
            self._answer = Standing.NONE

    async def _part(self, tell: Callable[[Claim, int], Awaitable[None]]) -> None:
        lease, is_ours, self.lease = self.lease, self._memory_term.left_s() > 0, None
        self._answer = Standing.NONE
        self._due_at_s = 0.0
        if lease is None or not is_ours:
            return
        try:
            await self._reached(tell(self._claimed(), lease.fence))
            _LOG.info("lease %s: %s", self._claimed().lease_id, tell.__name__)
        except LedgerUnavailable:
            _LOG.warning("lease %s: not given back, it will expire", self._claimed().lease_id)

    def _take(self, lease: Lease | None, sent_at_s: float, *, is_renewed: bool = True) -> None:
        if lease is None:
            _LOG.warning("lease %s: it is not ours any more", self._claimed().lease_id)
            self.lease, self._answer, self._due_at_s = None, Standing.NONE, 0.0
            return
        if self.lease is None or lease.is_asked_back > self.lease.is_asked_back:
            _LOG.info(
                "lease %s: %s", self._claimed().lease_id, "yielding" if lease.is_asked_back else "reserved"
            )
        self.lease = lease
        if is_renewed:
            self._holder_term.begin(sent_at_s)
            self._memory_term.begin(sent_at_s)

    def _stand(self, answer: Standing) -> None:
        self._told_at_s = self._now_s()
        if self.standing is Standing.UNPROTECTED and answer is not Standing.OTHERS:
            return  # it goes on
        if self.standing is Standing.DOUBTFUL and answer is Standing.SETTLING:
            return  # for as long as the lease lasted before the ledger forgot it
        self.lease = None
        if answer is not self._answer:
            _LOG.info("lease %s: %s", self._claimed().lease_id, answer)
        self._answer = answer

    async def _reached(self, call: Awaitable[T]) -> T:
        """Await an answer, for no longer than what is held lasts."""
        left_s = self._memory_term.left_s() if self.lease is not None else 0.0
        try:
            async with asyncio.timeout(left_s if left_s > 0 else None):
                answer = await call
        except LedgerRefuses:
            self.outage = None
            raise
        except (LedgerUnavailable, TimeoutError) as error:
            self._note_outage(error)
            raise LedgerUnavailable("the GPU's ledger cannot be reached") from error
        if self.outage is not None:
            _LOG.info("the GPU's ledger is back")
        self.outage = None
        return answer

    def _note_outage(self, error: Exception) -> None:
        if self.outage is None:
            _LOG.warning("the GPU's ledger is not there: %s", error)
            self._outage_began_at_s = self._now_s()
        self.outage = str(error) or "it does not answer"
        self._due_at_s = self._now_s() + min(self._ledger.ttl_s / 10, 1.0)

    def _claimed(self) -> Claim:
        assert self.claim is not None
        return self.claim
