"""Bounded work: so many images at once, so many waiting, and an immediate 429 beyond that."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from frontend.errors import DeadlineExceeded
from frontend.scoring.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from frontend.deadline import Deadline

_SMOOTHING: Final = 0.2  # weight of the newest service time in the running mean
_FIRST_GUESS_S: Final = 0.1


class Admission:
    """First come, first served; the unit is an image, so that a batch counts as what it costs.

    An eighth of the places is for requests of one image: these wait for no batch while it is free.
    """

    def __init__(self, max_concurrency: int, max_queue: int) -> None:
        self._max_concurrency = max_concurrency
        self._max_batched = max_concurrency - max_concurrency // 8
        self._max_queue = max_queue
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._image_s = _FIRST_GUESS_S
        self._batched = 0  # of those in work
        self.in_work = 0
        self.queued = 0

    @asynccontextmanager
    async def admit(self, images: int, deadline: Deadline) -> AsyncIterator[None]:
        """Hold `images` places for the duration of the block.

        Raises:
            Overloaded: the queue is full; says when to come back.
            DeadlineExceeded: the deadline passed in the queue.
        """
        await self._enter(images, deadline)
        started = time.monotonic()
        try:
            yield
        finally:
            # The time in which one image's place becomes free again, at the present load.
            image_s = (time.monotonic() - started) / images
            self._image_s += _SMOOTHING * (image_s - self._image_s)
            self._leave(images)

    def check(self, images: int) -> None:
        """Refuse what would be refused now, before anything is fetched for it.

        Raises:
            Overloaded: the queue is full; says when to come back.
        """
        if not self._is_free(images, is_first=not self._waiting) and self.queued + images > self._max_queue:
            raise Overloaded("the queue is full", retry_after_s=self._retry_after_s())

    async def _enter(self, images: int, deadline: Deadline) -> None:
        if self._is_free(images, is_first=not self._waiting):
            self._take(images)
            return
        self.check(images)
        turn = asyncio.get_running_loop().create_future()
        entry = (images, turn)
        self._waiting.append(entry)
        self.queued += images
        try:
            async with deadline.timeout():
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # admitted in the same moment: give it back
                self._leave(images)
            elif entry in self._waiting:  # else `_wake` has met it, cancelled, and dropped it
                self._waiting.remove(entry)
                self.queued -= images
                self._wake()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("the deadline passed while the request waited for its turn") from error
            raise

    def _is_free(self, images: int, *, is_first: bool) -> bool:
        if self.in_work + images > self._max_concurrency:
            return False
        if images == 1 and self.in_work - self._batched < self._max_concurrency - self._max_batched:
            return True
        return is_first and (images == 1 or self._batched + images <= max(self._max_batched, images))

    def _take(self, images: int) -> None:
        self.in_work += images
        self._batched += images if images > 1 else 0

    def _leave(self, images: int) -> None:
        self.in_work -= images
        self._batched -= images if images > 1 else 0
        self._wake()

    def _wake(self) -> None:
        is_first = True
        for entry in list(self._waiting):
            images, turn = entry
            if not turn.done():
                if not self._is_free(images, is_first=is_first):
                    is_first = False
                    continue
                self._take(images)
                turn.set_result(None)
            self._waiting.remove(entry)
            self.queued -= images

    def _retry_after_s(self) -> float:
        return max(1.0, self._image_s * (self.in_work + self.queued) / self._max_concurrency)
