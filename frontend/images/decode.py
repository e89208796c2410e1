"""Untrusted bytes of an image, or their base64 -> pixels, in worker processes that may die."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Self

import reward.errors
from frontend.errors import DeadlineExceeded
from frontend.images import decode_child
from frontend.images.errors import DecoderStopped, ImageTooLarge, ImageUndecodable
from frontend.images.turns import Turns
from reward.decoding import IMAGE, DecodeWorker

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from frontend.images.shared_bytes import Piece
    from reward.decoding import DecodeLimits
    from reward.preprocess import PreparedImage

    Base64 = str | Piece
    """Base64 or a data: URI; a piece is the text between the quotes of a JSON string."""

_CLOSE_S: Final = 2.0
"""Work that still runs when the pool is left may take this long. Requests no longer wait for it."""


class DecodePool:
    """A fixed number of workers, each driven by a thread; use as an async context manager.

    At its end it waits a moment for running work, and then ends that work.
    """

    def __init__(
        self,
        limits: DecodeLimits | None = None,
        *,
        workers: int = 2,
        on_worker_lost: Callable[[], None] = lambda: None,
        module: str = decode_child.__name__,
    ) -> None:
        """Prepare; workers run `module`, and `on_worker_lost` is called in any thread."""
        self._workers = [DecodeWorker(limits, on_lost=on_worker_lost, module=module) for _ in range(workers)]
        self._idle: SimpleQueue[DecodeWorker] = SimpleQueue()
        self._turns = Turns(workers, max_each=max(1, workers - 1))
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._left = False

    @property
    def busy(self) -> int:
        """Return how many workers are at work."""
        return self._turns.taken

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(asyncio.to_thread(worker.start) for worker in self._workers))
        except BaseException:
            await self._close()
            raise
        for worker in self._workers:
            self._idle.put(worker)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        finishing = asyncio.create_task(asyncio.to_thread(self._threads.shutdown))
        await asyncio.wait({finishing}, timeout=_CLOSE_S)
        await self._close()
        await finishing

    async def decode(
        self, source: bytes | bytearray | Base64, *, timeout_s: float, request: object = None
    ) -> PreparedImage:
        """Decode one image within `timeout_s`, the wait for a worker included.

        The images of one `request` (any object) take turns with those of others. A caller who is
        cancelled while waiting costs nothing. Work that has begun is finished, so that callers who
        come and go do not cost a worker each.

        Raises:
            ImageTooLarge: more bytes, pixels by the header, or memory than allowed.
            ImageUndecodable: damaged, not of a known format, or its decoder hung or crashed.
            DeadlineExceeded: `timeout_s` passed.
            DecoderStopped: the pool has been left.
        """
        deadline = time.monotonic() + timeout_s
        request = request or object()
        try:
            async with asyncio.timeout(timeout_s):
                await self._turns.take(request)
                return await asyncio.wrap_future(self._submit(source, deadline, request))
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the image was decoded") from None

    def _submit(
        self, source: bytes | bytearray | Base64, deadline: float, request: object
    ) -> Future[PreparedImage]:
        """Let a thread do it; the turn ends with the work, even if nobody waits any longer."""
        try:
            future = self._threads.submit(self._work, source, deadline)
        except RuntimeError as error:  # the threads have been shut down
            self._turns.give_back(request)
            raise DecoderStopped("images are no longer decoded") from error
        loop = asyncio.get_running_loop()
        begun = loop.time()

        def leave(_: Future[PreparedImage]) -> None:
            loop.call_soon_threadsafe(self._turns.give_back, request, loop.time() - begun)

        future.add_done_callback(leave)
        return future

    def _work(self, source: bytes | bytearray | Base64, deadline: float) -> PreparedImage:
        worker = self._idle.get()
        try:
            kind, content = _sendable(source)
            return worker.decode(content, kind=kind, timeout_s=deadline - time.monotonic())
        except reward.errors.RewardError as error:
            if time.monotonic() >= deadline:
                raise TimeoutError from error
            match error:
                case reward.errors.ImageTooLarge():
                    raise ImageTooLarge(str(error)) from error
                case reward.errors.InvalidImage():
                    raise ImageUndecodable(str(error)) from error
            if self._left:
                raise DecoderStopped("images are no longer decoded") from error
            raise
        finally:
            self._idle.put(worker)

    async def _close(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in self._workers))


def _sendable(source: bytes | bytearray | Base64) -> tuple[bytes, bytes | bytearray | Piece]:
    """Return what a worker is told and sent."""
    if isinstance(source, bytes | bytearray):
        return IMAGE, source
    content = json.dumps(source)[1:-1].encode() if isinstance(source, str) else source.sendable()
    return decode_child.BASE64, content
