"""Untrusted image bytes -> pixels, in worker processes that may die.

Every worker is a `pebble.ProcessPool` of one. Workers of one pool share two pipes and their locks: whoever is
killed while holding them, or while no other works, takes the pool and all its tasks along (measured, see
docs/decisions/decode-one-pool-per-worker.md). A pool of one has only its own task to lose.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from pebble import ProcessExpired, ProcessFuture, ProcessPool

# Imported here, they are registered in every worker, and Pillow need not import all its plugins to find them.
from PIL import AvifImagePlugin, Image, ImageFile, WebPImagePlugin  # noqa: F401

import reward.errors
from frontend.errors import DeadlineExceeded, ImageTooLarge, ImageUndecodable, Internal
from reward.preprocess import prepare

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")

# Dead by one of these, a worker died of the image; dead otherwise, somebody killed it.
_CRASHES: Final = frozenset(
    -number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
_WATCH_S: Final = 0.25
_KILL_S: Final = 5.0  # more than pebble takes to kill a worker that ran out of time


@dataclass(frozen=True)
class DecodeLimits:
    """How many workers there are, and what one image may cost."""

    workers: int = 2
    max_pixels: int = 50_000_000  # of all frames together
    task_timeout_s: float = 10.0
    memory_bytes: int = 1536 * 2**20  # beyond what an idle worker has mapped


@dataclass(frozen=True)
class Decoded:
    """An image as the network sees it, and what its header said."""

    pixels: NDArray[np.uint8]  # (3, 224, 224)
    width: int
    height: int
    format: str
    sha256: str  # of the encoded bytes


Work = Callable[[bytes, DecodeLimits], Decoded]


def decode_image(data: bytes, limits: DecodeLimits) -> Decoded:
    """Decode in the calling process; this is what a worker runs.

    Raises:
        reward.errors.InvalidImage: too large, damaged, or not of `FORMATS`.
        MemoryError: it takes more than the process may have.
    """
    image = prepare(data, formats=FORMATS, max_pixels=limits.max_pixels, count_frames=True)
    # A JPEG with further images inside (previews, depth) is an MPO to Pillow, and to nobody else.
    name = "JPEG" if image.format == "MPO" else image.format
    return Decoded(image.pixels, image.width, image.height, name, hashlib.sha256(data).hexdigest())


class DecodePool:
    """A fixed number of decode workers; use as an async context manager.

    Leaving it waits for the images in work, no longer than their time limit.
    """

    def __init__(
        self,
        limits: DecodeLimits | None = None,
        *,
        work: Work = decode_image,
        on_worker_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits or DecodeLimits()
        self._on_worker_lost = on_worker_lost
        self._workers = [_Worker(self._limits, work) for _ in range(self._limits.workers)]
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._running: set[asyncio.Task[Decoded]] = set()

    async def __aenter__(self) -> Self:
        # Workers fork from a process that has imported this module: a new one costs milliseconds.
        _CONTEXT.set_forkserver_preload([__name__])
        try:
            await asyncio.gather(*(worker.start() for worker in self._workers))
        except BaseException:
            await self._stop_all()
            raise
        for worker in self._workers:
            self._idle.put_nowait(worker)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=self._limits.task_timeout_s + _KILL_S)
        await self._stop_all()

    async def decode(self, data: bytes, *, timeout_s: float) -> Decoded:
        """Decode one image within `timeout_s`, the wait for a worker included.

        A caller who is cancelled while waiting costs nothing. Work that has begun is finished, so that
        callers who come and go do not cost a worker each.

        Raises:
            ImageTooLarge: more pixels than allowed by the header, or more memory than allowed.
            ImageUndecodable: damaged, not of `FORMATS`, or its decoder hung or crashed.
            DeadlineExceeded: `timeout_s` passed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                worker = await self._idle.get()
                task = loop.create_task(self._work(worker, data, deadline))
                self._running.add(task)
                task.add_done_callback(self._finished)
                return await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the image was decoded") from None

    async def _stop_all(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    def _finished(self, task: asyncio.Task[Decoded]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be left to ask

    async def _work(self, worker: _Worker, data: bytes, deadline: float) -> Decoded:
        try:
            return await self._attempts(worker, data, deadline)
        except reward.errors.ImageTooLarge as error:
            raise ImageTooLarge(str(error)) from error
        except MemoryError as error:
            raise ImageTooLarge("decoding the image takes more memory than is allowed") from error
        except reward.errors.InvalidImage as error:
            raise ImageUndecodable(str(error)) from error
        finally:
            self._idle.put_nowait(worker)

    async def _attempts(self, worker: _Worker, data: bytes, deadline: float) -> Decoded:
        """Try again, once, where the worker was killed from outside: the image may be innocent."""
        limit_s = self._limits.task_timeout_s
        for last in (False, True):
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            try:
                return await worker.run(data, min(limit_s, left_s))
            except TimeoutError:
                if left_s <= limit_s:
                    break
                raise ImageUndecodable(f"decoding the image took longer than {limit_s:g} s") from None
            except _WorkerLost as lost:
                self._on_worker_lost()
                if last or lost.crashed:
                    raise ImageUndecodable("the decoder failed on the image", internal=str(lost)) from lost
        raise DeadlineExceeded("the deadline passed while the image was decoded")


class _WorkerLost(Exception):
    """The process died, or may have: the task may be tried on another."""

    def __init__(self, why: str, *, crashed: bool = False) -> None:
        super().__init__(why)
        self.crashed = crashed


class _Worker:
    """A pool of one, replaced whole whenever its process is lost."""

    def __init__(self, limits: DecodeLimits, work: Work) -> None:
        self._limits = limits
        self._work = work
        self._pool: ProcessPool | None = None
        self._stopped = False
        self._discarding: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the process, and return once it can work."""
        pool = await self._started()
        await asyncio.wrap_future(pool.schedule(os.getpid))

    async def stop(self) -> None:
        self._stopped = True
        self._discard()
        if self._discarding:
            await asyncio.wait(self._discarding)

    async def run(self, data: bytes, limit_s: float) -> Decoded:
        """Have one image decoded within about `limit_s`.

        Raises:
            TimeoutError: it took longer; the process has been replaced.
            _WorkerLost: the process died.
        """
        try:
            pool = await self._started()
            future = asyncio.wrap_future(self._schedule(pool, data, limit_s))
            return await self._watch(pool, future, limit_s + _KILL_S)
        except ProcessExpired as error:
            self._discard()
            raise _WorkerLost(f"exit code {error.exitcode}", crashed=error.exitcode in _CRASHES) from error
        except (BrokenProcessPool, _PoolGone) as error:
            self._discard()
            raise _WorkerLost(f"pool broken: {error}") from error

    async def _started(self) -> ProcessPool:
        if self._stopped:
            raise Internal("images are no longer decoded", internal="the DecodePool has been left")
        if self._pool is not None and not self._pool.active:  # its idle process was killed
            self._discard()
        if self._pool is None:
            pool = ProcessPool(
                max_workers=1, initializer=_confine, initargs=(self._limits,), context=_CONTEXT
            )
            await asyncio.to_thread(getattr, pool, "active")  # asking starts it
            self._pool = pool
        return self._pool

    def _schedule(self, pool: ProcessPool, data: bytes, limit_s: float) -> ProcessFuture[Decoded]:
        try:
            return pool.schedule(self._work, args=(data, self._limits), timeout=limit_s)
        except RuntimeError as error:  # it broke this very moment
            raise _PoolGone from error

    async def _watch(self, pool: ProcessPool, future: asyncio.Future[Decoded], patience_s: float) -> Decoded:
        """Wait, but not for a pool that broke without telling, nor for one that fails to kill."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while not (await asyncio.wait({future}, timeout=_WATCH_S))[0]:
            if not pool.active or loop.time() > until:
                future.cancel()
                raise _PoolGone
        return future.result()

    def _discard(self) -> None:
        if self._pool is None:
            return
        task = asyncio.create_task(asyncio.to_thread(_stop, self._pool))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)
        self._pool = None


def _stop(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()


class _PoolGone(Exception):
    """The pool broke without an error for its task."""


_CONTEXT: Final = multiprocessing.get_context("forkserver")


def _confine(limits: DecodeLimits) -> None:
    """Bound what this worker may do, as it starts."""
    # Pebble's handler would wait for a decoder that hangs in C; the default kills at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A core dump would leave somebody's image on the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(FileNotFoundError):  # only Linux tells, and only Linux keeps RLIMIT_AS
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        bound = pages * resource.getpagesize() + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the workers are the parallelism
