"""Work that takes the processor for long, or that may kill its process, in processes of its own.

Every worker is a `pebble.ProcessPool` of one. Workers of one pool share two pipes and their locks: whoever is
killed while holding them, or while no other works, takes the pool and all its tasks along (measured, see
docs/decisions/decode-one-pool-per-worker.md). A pool of one has only its own task to lose.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from frontend.errors import DeadlineExceeded
from frontend.images.errors import DecoderStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

T = TypeVar("T")

# Dead by one of these, a worker died of its task; dead otherwise, somebody killed it.
_CRASHES: Final = frozenset(
    -number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
_WATCH_S: Final = 0.25
_KILL_S: Final = 5.0  # more than pebble takes to kill a worker that ran out of time
_CLOSE_S: Final = 2.0
"""Work that still runs when the pool is left may take so long. What requests waited for has ended before."""
_CONTEXT: Final = multiprocessing.get_context("forkserver")


class TaskTookTooLong(Exception):
    """The task ran into the limit for every task; its process was replaced."""


class WorkerLost(Exception):
    """The process died, or may have: the task may be tried on another."""

    def __init__(self, why: str, *, crashed: bool = False) -> None:
        super().__init__(why)
        self.crashed = crashed


class WorkerPool:
    """A fixed number of workers; use as an async context manager.

    Leaving it waits a moment for what runs, and then ends it.
    """

    def __init__(
        self,
        workers: int,
        *,
        task_timeout_s: float,
        initialise: tuple[Callable[..., None], tuple[Any, ...]],
        preload: Sequence[str],
        on_worker_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; a worker starts by `initialise`, a function and its arguments.

        It is forked from a process that has imported the modules of `preload`.
        """
        self._task_timeout_s = task_timeout_s
        self._preload = preload
        self._on_worker_lost = on_worker_lost
        self._workers = [_Worker(*initialise) for _ in range(workers)]
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        # Workers fork from a process that has imported what they need: a new one costs milliseconds.
        _CONTEXT.set_forkserver_preload(list(self._preload))
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
            await asyncio.wait(self._running, timeout=_CLOSE_S)
        await self._stop_all()

    async def run(self, work: Callable[..., T], *arguments: object, timeout_s: float) -> T:
        """Have `work(*arguments)` done within `timeout_s`, the wait for a worker included.

        A caller who is cancelled while waiting costs nothing. Work that has begun is finished, so that
        callers who come and go do not cost a worker each. What `work` raises comes out as it is.

        Raises:
            TaskTookTooLong: it took longer than any task may.
            WorkerLost: its process crashed, or was killed twice.
            DeadlineExceeded: `timeout_s` passed.
            DecoderStopped: the pool has been left.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                worker = await self._idle.get()
                task = loop.create_task(self._occupy(worker, work, arguments, deadline))
                self._running.add(task)
                task.add_done_callback(self._finished)
                return await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the image was decoded") from None

    async def _stop_all(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be left to ask

    async def _occupy(
        self, worker: _Worker, work: Callable[..., T], arguments: tuple[object, ...], deadline: float
    ) -> T:
        try:
            return await self._attempts(worker, work, arguments, deadline)
        finally:
            self._idle.put_nowait(worker)

    async def _attempts(
        self, worker: _Worker, work: Callable[..., T], arguments: tuple[object, ...], deadline: float
    ) -> T:
        """Try again, once, where the worker was killed from outside: the task may be innocent."""
        limit_s = self._task_timeout_s
        for is_last in (False, True):
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            try:
                return await worker.run(work, arguments, min(limit_s, left_s))
            except TimeoutError:
                if left_s <= limit_s:
                    break
                raise TaskTookTooLong(f"longer than {limit_s:g} s") from None
            except WorkerLost as lost:
                self._on_worker_lost()
                if is_last or lost.crashed:
                    raise
        raise DeadlineExceeded("the deadline passed while the image was decoded")


class _Worker:
    """A pool of one, replaced whole whenever its process is lost."""

    def __init__(self, initialise: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._initialise = initialise
        self._arguments = arguments
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

    async def run(self, work: Callable[..., T], arguments: tuple[object, ...], limit_s: float) -> T:
        """Have one task done within about `limit_s`.

        Raises:
            TimeoutError: it took longer; the process has been replaced.
            WorkerLost: the process died.
        """
        try:
            pool = await self._started()
            future = asyncio.wrap_future(self._schedule(pool, work, arguments, limit_s))
            return await self._watch(pool, future, limit_s + _KILL_S)
        except ProcessExpired as error:
            self._discard()
            raise WorkerLost(f"exit code {error.exitcode}", crashed=error.exitcode in _CRASHES) from error
        except (BrokenProcessPool, _PoolGone) as error:
            self._discard()
            raise WorkerLost(f"pool broken: {error}") from error

    async def _started(self) -> ProcessPool:
        if self._stopped:
            raise DecoderStopped("images are no longer decoded", internal="the pool of workers has been left")
        if self._pool is not None and not self._pool.active:  # its idle process was killed
            self._discard()
        if self._pool is None:
            pool = ProcessPool(
                max_workers=1, initializer=self._initialise, initargs=self._arguments, context=_CONTEXT
            )
            await asyncio.to_thread(getattr, pool, "active")  # asking starts it
            self._pool = pool
        return self._pool

    def _schedule(
        self, pool: ProcessPool, work: Callable[..., T], arguments: tuple[object, ...], limit_s: float
    ) -> ProcessFuture[T]:
        try:
            return pool.schedule(work, args=arguments, timeout=limit_s)
        except RuntimeError as error:  # it broke this very moment
            raise _PoolGone from error

    async def _watch(self, pool: ProcessPool, future: asyncio.Future[T], patience_s: float) -> T:
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


class _PoolGone(Exception):
    """The pool broke without an error for its task."""


def _stop(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()
