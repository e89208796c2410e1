"""One of several who share a lease: at work with it, until it leaves; the last of them ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_boss.claim import Answer

if TYPE_CHECKING:
    from model_boss.claim import Claim
    from model_boss.ledger import Ledger


class Presence:
    """Tells the ledger that this sharer is at work, or done, and remembers how many others are not."""

    def __init__(self, ledger: Ledger, claim: Claim, sharer: str) -> None:
        self.others: int | None = None
        self.has_left = False
        self.is_ending = False
        """Whether it has left as the last: it has to unload, and keeps its place meanwhile."""
        self._ledger = ledger
        self._claim = claim
        self._sharer = sharer

    @property
    def has_place(self) -> bool:
        """Whether heartbeats have to say something of this sharer: its place expires after a time to live."""
        return not self.has_left or self.is_ending

    async def tell(self, fence: int) -> Answer:
        """Say whether this sharer is at work or done; done where no other is left, it ends the lease.

        Raises:
            LedgerUnavailable: it could not be told.
        """
        shared = await self._ledger.share(self._claim, fence, self._sharer, is_here=not self.has_left)
        self.others = None if shared.answer is Answer.LOST else shared.others
        return shared.answer
