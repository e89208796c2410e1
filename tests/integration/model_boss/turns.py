"""Whose turn it is to be granted, and since when, by the events that Redis wrote.

The dead do not count: once a process is killed, nobody stands behind it and its memory is free. But
the ledger notices that only after one time to live, so a turn does not begin before that.

From then on, the next call of the waiter must be granted. It must call within one time to live, or
lose its place. All this is true however slow the machine is. All times are Redis's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Turns:
    """The ledger as the living processes see it."""

    def __init__(self, room_mb: int, ttl_ms: int) -> None:
        self.killed_at_ms: dict[str, int] = {}
        self.held_mb: dict[str, int] = {}
        self.queue: dict[str, tuple[int, int]] = {}
        """Lease id -> priority and size, in the order in which they came."""
        self._room_mb = room_mb
        self._ttl_ms = ttl_ms
        self._has_begun = False
        self._not_before_ms = 0  # the end of the grace, or of what the dead held
        self._next: str | None = None
        self._since_ms = 0

    def kill(self, owner: str, at_ms: int) -> None:
        """Go on without a process that can say nothing after this time."""
        self.killed_at_ms[owner] = at_ms
        self.held_mb = {i: mb for i, mb in self.held_mb.items() if owner_of(i) != owner}
        self.queue = {i: claim for i, claim in self.queue.items() if owner_of(i) != owner}
        self._not_before_ms = max(self._not_before_ms, at_ms + self._ttl_ms)
        self._look(at_ms)

    def follow(self, event: str, lease_id: str, vram_mb: int, at_ms: int) -> None:
        """Take in the next event that Redis wrote."""
        if not self._has_begun:  # the first to ask begins the ledger, though others were killed before
            self._has_begun, self._not_before_ms = True, max(self._not_before_ms, at_ms + self._ttl_ms)
        if owner_of(lease_id) in self.killed_at_ms:
            return
        if event == "waiting":
            self.queue[lease_id] = (priority_of(lease_id), vram_mb)
        elif event == "granted":
            assert lease_id == self._next, f"{lease_id} was granted when it was the turn of {self._next}"
            self.check(at_ms, {})
            del self.queue[lease_id]
            self.held_mb[lease_id] = vram_mb
        elif event == "released":
            del self.held_mb[lease_id]
        else:
            assert event in ("committed", "yield-asked"), f"{lease_id}: {event}, and its process lives"
        self._look(at_ms)

    def check(self, now_ms: int, asked_at_ms: Mapping[str, int]) -> None:
        """Check that the waiter whose turn it is did not ask in vain.

        It must not have waited for longer than a waiter may be silent, either.
        """
        if self._next is None:
            return
        since_ms, asked_ms = self._since_ms, asked_at_ms.get(self._next, 0)
        told = f"since {since_ms}, asked at {asked_ms}; held {self.held_mb}, queue {self.queue}"
        assert asked_ms <= since_ms, f"{self._next} asked in vain, nothing was in its way: {told}"
        assert now_ms - self._since_ms < self._ttl_ms, f"{self._next} waits, and nothing is in its way"

    def _look(self, at_ms: int) -> None:
        first = max(self.queue, key=lambda i: self.queue[i][0], default=None)  # of equals, the first
        if first is not None and sum(self.held_mb.values()) + self.queue[first][1] > self._room_mb:
            first = None
        if first != self._next:
            self._next, self._since_ms = first, max(at_ms, self._not_before_ms)


def lease_id_of(owner: str, number: int, priority: int) -> str:
    """Make a lease id that says what the events do not."""
    return f"{owner}/{number}/{priority}"


def owner_of(lease_id: str) -> str:
    return lease_id.partition("/")[0]


def priority_of(lease_id: str) -> int:
    return int(lease_id.rpartition("/")[2])
