"""How large and how slow bodies may be: a single body, and all that are held at one moment.

A body that announces its size is refused before it arrives if there is no room for it. Small bodies
have room that large ones cannot take. If a body finds no room, bodies that arrive slowly must make
it, the slowest first. So four clients that send large bodies and never end them do not shut
everybody out.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from frontend.errors import DeadlineExceeded
from frontend.http.errors import PayloadTooLarge
from frontend.scoring.errors import Overloaded

if TYPE_CHECKING:
    from starlette.types import Message, Receive

_RETRY_AFTER_S: Final = 1.0
_SMALL_BYTES: Final = 2**20
_SMALL_ROOM_BYTES: Final = 16 * 2**20
_PATIENCE_S: Final = 10.0
"""Before this time no body counts as slow."""
_MIN_BYTES_PER_S: Final = 16 * 2**10
_SLOW_BYTES_PER_S: Final = 256 * 2**10
"""A body that is slower makes room for others."""


class BodyLimits:
    """All bodies that are held."""

    def __init__(
        self,
        *,
        max_body_bytes: int,
        max_buffered_bytes: int,
        small_bytes: int = _SMALL_BYTES,
        small_room_bytes: int = _SMALL_ROOM_BYTES,
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._small_bytes = small_bytes
        self._small_room_bytes = small_room_bytes
        self._arriving: set[Body] = set()
        self.buffered_bytes = 0

    def hold(self, body: Body, size: int) -> None:
        """Hold this many bytes of a body, received or announced.

        Raises:
            PayloadTooLarge: one body may not have so many.
            Overloaded: too many are held.
        """
        if size > self.max_body_bytes:
            raise PayloadTooLarge(f"the body has more than the {self.max_body_bytes} bytes allowed")
        count = size - body.held_bytes
        if count <= 0:
            return
        room = self._max_buffered_bytes + (self._small_room_bytes if size <= self._small_bytes else 0)
        self._take(count, room, body)
        self._arriving.add(body)
        body.held_bytes = size

    def arrived(self, body: Body) -> None:
        """Take a body out of those that may have to make room; it keeps what it holds."""
        self._arriving.discard(body)

    def let_go(self, body: Body) -> None:
        """Count nothing of a body as held any more."""
        self._arriving.discard(body)
        self.give_back(body.held_bytes)
        body.held_bytes = 0

    def take(self, count: int) -> None:
        """Hold bytes that came to a request in another way than in its body.

        Raises:
            Overloaded: too many are held.
        """
        self._take(count, self._max_buffered_bytes)

    def give_back(self, count: int) -> None:
        """Count bytes as no longer held."""
        self.buffered_bytes -= count

    def _take(self, count: int, room: int, for_whom: Body | None = None) -> None:
        if self.buffered_bytes + count > room:
            self._make_room(self.buffered_bytes + count - room, for_whom)
        self.buffered_bytes += count

    def _make_room(self, count: int, for_whom: Body | None) -> None:
        slow = sorted((body for body in self._arriving if body.is_slow()), key=Body.bytes_per_s)
        leaving = []
        for body in slow:
            if count > 0 and body is not for_whom:
                leaving.append(body)
                count -= body.held_bytes
        if count > 0:
            raise Overloaded("too many large bodies are being received", retry_after_s=_RETRY_AFTER_S)
        for body in leaving:
            self.let_go(body)
            body.leave()


class Body:
    """One body, from what its headers announce until its request is answered."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.received_bytes = 0
        self.is_read = asyncio.Event()
        self._started_s = time.monotonic()
        self._waiting: asyncio.Timeout | None = None
        self._must_leave = False

    async def receive(self, receive: Receive) -> Message:
        """Await the next message, as long as the body is not too slow.

        Raises:
            DeadlineExceeded: it is too slow.
            Overloaded: it was slow, and had to make room for another.
        """
        if self.is_read.is_set():
            return await receive()
        try:
            async with asyncio.timeout(0 if self._must_leave else self._remaining_s()) as self._waiting:
                message = await receive()
        except TimeoutError:
            if self._must_leave:
                words = "the body arrived slowly, and had to make room for others"
                raise Overloaded(words, retry_after_s=_RETRY_AFTER_S) from None
            raise DeadlineExceeded(
                f"the body arrived at less than {_MIN_BYTES_PER_S} bytes a second"
            ) from None
        finally:
            self._waiting = None
        if message["type"] == "http.request":
            self.received_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.is_read.set()
        return message

    def bytes_per_s(self) -> float:
        """Return how fast the body has arrived so far."""
        return self.received_bytes / max(time.monotonic() - self._started_s, 1e-3)

    def is_slow(self) -> bool:
        """Tell whether the body must make room if there is none."""
        return time.monotonic() - self._started_s >= _PATIENCE_S and self.bytes_per_s() < _SLOW_BYTES_PER_S

    def leave(self) -> None:
        """Make `receive` end, now or at its next call."""
        self._must_leave = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    def _remaining_s(self) -> float:
        due_s = self._started_s + _PATIENCE_S + self.received_bytes / _MIN_BYTES_PER_S
        return due_s - time.monotonic()
