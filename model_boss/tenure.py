"""What a process holds of a lease, and how long it may rely on it by its own clock.

Three moments follow a heartbeat. They are given for a time to live of 15 s and a safety margin of a
tenth of it:

     0.0  A renewal is sent. The ledger counts from when it arrives.
     8.5  2/3 of 15, less 1.5. Doubtful: from 10.0 on another process of the same lease may
          follow, so nothing is loaded now. (If a lease has only one process, nobody follows,
          and nothing is doubtful.)
    13.5  15, less 1.5. Lost: from 15.0 on the memory may be another's, so the model has 1.5 s
          to be gone. (With `fail_open` it goes on, unprotected.)
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from model_boss.claim import Granted, Held, Phase, Waiting, WaitReason
from model_boss.errors import ClaimRefused, LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from model_boss.claim import Claim, GpuLedger

T = TypeVar("T")

_LOG: Final = logging.getLogger("model_boss")
_POLL_S: Final = 0.25


def now_s() -> float:
    """Read seconds that never go back, and that go on while the machine sleeps if they can."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Standing(StrEnum):
    """How the lease of the model's memory stands, for this process."""

    NONE = "none"
    """Nothing was asked yet, or nothing is known any more."""
    OTHERS = "others'"
    """Another process holds it, and this one stands by."""
    QUEUED = "queued"
    """Memory was asked for, but others have it."""
    SETTLING = "settling"
    """The ledger has just begun, and former holders may not have come back yet."""
    REFUSED = "refused"
    RESERVED = "reserved"
    COMMITTED = "committed"
    YIELDING = "yielding"
    """Ours, but somebody asks for the memory."""
    DOUBTFUL = "doubtful"
    """Ours, but the ledger was silent for so long that another process may hold it."""
    UNPROTECTED = "unprotected"
    """Over by our own clock, and we go on without it (`fail_open`)."""
    LOST = "lost"
    """Over by our own clock (`fail_closed`)."""


_STANDINGS: Final = {
    Phase.RESERVED: Standing.RESERVED,
    Phase.ACTIVE: Standing.COMMITTED,
    Phase.YIELDING: Standing.YIELDING,
}
_WAITING: Final = frozenset({Standing.QUEUED, Standing.SETTLING})


def lasts_s(ttl_s: float, *, others_follow: bool, safety: float = 0.1) -> float:
    """Return how long a heartbeat is good for by one's own clock, from when it was sent.

    The ledger counts from when it arrives. `safety` is a part of the time to live: clocks may
    differ by it, and the model must be gone within it.
    """
    return ttl_s * ((2 / 3 if others_follow else 1) - safety)


class Tenure:
    """Ask the ledger, keep its answers, and know when they are over."""

    def __init__(self, ledger: GpuLedger, *, fail_open: bool, clock: Callable[[], float] = now_s) -> None:
        self.claim: Claim | None = None
        self.lease: Granted | None = None
        self.others: Held | None = None
        """The process that holds the lease, by the last answer."""
        self.outage: str | None = None
        """Why the ledger could not be reached the last time."""
        self.refusal: ClaimRefused | None = None
        self.handed_over = False
        self._ledger = ledger
        self._fail_open = fail_open
        self._now_s = clock
        self._renewed_at_s = 0.0
        self._answer = Standing.NONE
        self._told_at_s = 0.0
        self._due_at_s = 0.0
        self._outage_began_at_s = 0.0

    @property
    def standing(self) -> Standing:
        """Return how the lease stands now."""
        if self.lease is None:
            stale = self._answer is Standing.OTHERS and self._now_s() - self._told_at_s > self._ledger.ttl_s
            return Standing.NONE if stale else self._answer
        if self._memory_left_s() <= 0:
            return Standing.UNPROTECTED if self._fail_open else Standing.LOST
        return Standing.DOUBTFUL if self._holder_left_s() <= 0 else _STANDINGS[self.lease.phase]

    @property
    def expires_in_s(self) -> float | None:
        """How long the memory is ours if no heartbeat succeeds any more; None if it is not ours."""
        return None if self.lease is None else max(0.0, self._memory_left_s())

    @property
    def outage_s(self) -> float:
        """For how long the ledger has been out of reach; 0 if it is in reach."""
        return 0.0 if self.outage is None else self._now_s() - self._outage_began_at_s

    def due_in_s(self, *, is_urgent: bool) -> float:
        """Return when to ask again, or when a term ends; `is_urgent` if a request waits."""
        due_at_s = self._due_at_s
        if is_urgent and not self.handed_over:
            due_at_s = min(due_at_s, self._told_at_s + _POLL_S)
        ends = [due_at_s - self._now_s()]
        if self.lease is not None:
            ends += [left_s for left_s in (self._holder_left_s(), self._memory_left_s()) if left_s > 0]
        return max(0.0, min(ends))

    async def beat(self, *, in_use: bool) -> bool:
        """Renew if it is time and the lease is ours without doubt; tell whether it was renewed."""
        if self.lease is None or self._now_s() < self._due_at_s or self._holder_left_s() <= 0:
            return False
        sent_at_s, self._due_at_s = self._now_s(), self._now_s() + self._ledger.ttl_s / 3
        renewal = self._ledger.renew(self._claimed(), self.lease, in_use=in_use)
        try:
            self._take(await self._reached(renewal), sent_at_s)
        except LedgerUnavailable:
            return False
        except ClaimRefused as error:  # another ledger by now, so to speak
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
        except ClaimRefused as error:
            self.refusal, self._due_at_s = error, self._now_s() + self._ledger.ttl_s / 3
            self._stand(Standing.REFUSED)
            return
        self.refusal, self.others = None, answer if isinstance(answer, Held) else None
        self._due_at_s = self._now_s() + self._ledger.ttl_s / 3
        match answer:
            case Granted():
                self._take(answer, sent_at_s)
                self.handed_over = False
            case Held():
                self._stand(Standing.OTHERS)
                self.handed_over = False
            case Waiting():
                self._due_at_s = self._now_s() + _POLL_S * random.uniform(0.5, 1.5)  # noqa: S311 - spreads the waiters
                self._stand(Standing.SETTLING if answer.reason is WaitReason.GRACE else Standing.QUEUED)

    async def commit(self, used_mb: int | None = None) -> None:
        """Say that the model is loaded; a ledger that forgot the lease is reminded first."""
        assert self.lease is not None
        sent_at_s, claim = self._now_s(), self._claimed()
        try:
            lease = await self._reached(self._ledger.commit(claim, self.lease, used_mb))
            if lease is None:
                lease = await self._reached(self._ledger.renew(claim, self.lease, in_use=True))
                if lease is not None:
                    lease = await self._reached(self._ledger.commit(claim, lease, used_mb))
        except LedgerUnavailable:
            return
        self._take(lease, sent_at_s, is_renewed=False)

    def need(self, vram_mb: int) -> None:
        """Note how much is needed from now on; the next renewal tells the ledger."""
        self.claim = replace(self._claimed(), vram_mb=vram_mb)

    async def release(self, heir: str = "") -> None:
        """Give back the memory, which must be free, or the place in the queue.

        The memory can also be given to an heir, another lease of the same owner, as it is.
        """
        await self._part("release", partial(self._ledger.release, heir=heir))

    async def hand_over(self) -> None:
        """Let another process follow; ask a little later whether one did."""
        await self._part("hand over", self._ledger.hand_over)
        self.handed_over = True
        self._due_at_s = self._now_s() + self._ledger.ttl_s / 3 + min(1.0, self._ledger.ttl_s / 10)

    def forget_answer(self) -> None:
        """Forget what was said before the model was loaded or unloaded."""
        if self._answer in (Standing.QUEUED, Standing.REFUSED):
            self._answer = Standing.NONE

    async def _part(self, word: str, tell: Callable[[Claim, int], Awaitable[object]]) -> None:
        fence = 0 if self.lease is None else self.lease.fence
        is_there = self._answer in _WAITING if self.lease is None else self._memory_left_s() > 0
        self.lease, self._answer, self._due_at_s = None, Standing.NONE, 0.0
        if not is_there:
            return
        lease_id = self._claimed().lease_id
        try:
            await self._reached(tell(self._claimed(), fence))
            _LOG.info("lease %s: %s", lease_id, word)
        except LedgerUnavailable as error:
            _LOG.warning("lease %s: not given back, it will expire: %s", lease_id, error.__cause__)

    def _take(self, lease: Granted | None, sent_at_s: float, *, is_renewed: bool = True) -> None:
        lease_id, before = self._claimed().lease_id, self.lease
        if lease is None:
            _LOG.warning("lease %s: it is not ours any more", lease_id)
            self.lease, self._answer, self._due_at_s = None, Standing.NONE, 0.0
            return
        if before is None or lease.fence != before.fence:
            _LOG.info("lease %s: granted, fence %d", lease_id, lease.fence)
        if before is None or lease.phase is not before.phase:
            _LOG.info("lease %s: %s", lease_id, lease.phase)
        leased_mb, needed_mb = lease.vram_mb, self._claimed().vram_mb
        if leased_mb is not None and leased_mb < needed_mb and lease != before:
            _LOG.warning("lease %s: %d MiB leased, %d needed", lease_id, leased_mb, needed_mb)
        self.lease = lease
        if is_renewed:
            self._renewed_at_s = sent_at_s

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
        left_s = self._memory_left_s() if self.lease is not None else 0.0
        try:
            async with asyncio.timeout(left_s if left_s > 0 else None):
                answer = await call
        except ClaimRefused:
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

    def _memory_left_s(self, *, others_follow: bool = False) -> float:
        return self._renewed_at_s + lasts_s(self._ledger.ttl_s, others_follow=others_follow) - self._now_s()

    def _holder_left_s(self) -> float:
        """Return for how long nobody may follow this process."""
        return self._memory_left_s(others_follow=bool(self._claimed().holder))

    def _claimed(self) -> Claim:
        assert self.claim is not None
        return self.claim
