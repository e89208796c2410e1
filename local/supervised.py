"""A child process that is kept alive: restarted with growing pauses, and stopped as a whole."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

STOP_GRACE_S: Final = 40.0
"""Longer than the frontend may take for its running requests and for its closing."""
_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 30.0
_HEALTHY_AFTER_S: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1


@dataclass(eq=False)
class Supervised:
    """A command in a process group of its own; what it starts ends with it."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    """In addition to this process's own."""
    log: Path | None
    """None means where this process writes."""
    is_ready: Callable[[], Awaitable[bool]]
    clean_up: Callable[[], None] = lambda: None
    """Called whenever the process has ended."""
    started_s: float = field(default=0.0, init=False)
    _process: asyncio.subprocess.Process | None = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """Return the running process's id."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Return how the process ended; return None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start the process; the first start empties its log."""
        if self.log is not None and not self.started_s:
            self.log.unlink(missing_ok=True)
        with nullcontext() if self.log is None else self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                env={**os.environ, **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
            self.started_s = time.monotonic()

    async def keep_alive(self, report: Callable[[str], None]) -> None:
        """Start the process again whenever it ends, until cancelled."""
        delay_s = _FIRST_DELAY_S
        while True:
            if self._process is not None:  # else the last start failed
                status = await self._process.wait()
                self._end_group()
                if time.monotonic() - self.started_s > _HEALTHY_AFTER_S:
                    delay_s = _FIRST_DELAY_S
                how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
                report(f"{self.name} ended ({how}); it is started again in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _MAX_DELAY_S)
            await self.start()

    async def stop(self) -> None:
        """End the process and everything it started, by force after a grace period."""
        if self._process is None:
            return
        try:
            with suppress(ProcessLookupError, TimeoutError):
                self._process.terminate()
                async with asyncio.timeout(STOP_GRACE_S):
                    await self._process.wait()
            self.kill()
            await self._process.wait()
        finally:
            self._end_group()

    def kill(self) -> None:
        """End the process and everything it started by force; `keep_alive` starts it again."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _end_group(self) -> None:
        self.kill()  # a server's helpers do not outlive it
        self._process = None  # its id may be another's from now on
        self.clean_up()


async def keep_running(
    name: str,
    work: Callable[[], Awaitable[None]],
    report: Callable[[str], None],
    *,
    pause_s: float = 1.0,
) -> None:
    """Run something that never ends, until cancelled; if it ends, say so and run it again."""
    while True:
        try:
            await work()
            reason = "without an error"
        except Exception as error:  # noqa: BLE001 - the outermost frame: a supervisor does not end for it
            reason = repr(error)
        report(f"{name} stopped unexpectedly ({reason}); it goes on in {pause_s:g} s")
        await asyncio.sleep(pause_s)


def _end_with_parent() -> None:
    # If the supervisor itself is killed, the kernel ends its children (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
