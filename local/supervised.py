"""One child process that is kept alive: started, restarted with back-off when it dies, stopped whole."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_FIRST_DELAY_S: Final = 0.5
_LONGEST_DELAY_S: Final = 30.0
_HEALTHY_AFTER_S: Final = 60.0
_STOP_GRACE_S: Final = 40.0  # more than the frontend's own grace, and its last decoding
_PR_SET_PDEATHSIG: Final = 1


class Supervised:
    """A command in a process group of its own; what it starts ends with it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
        *,
        clean_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; nothing runs yet. `clean_up` is called whenever the process has ended."""
        self.name = name
        self._command = command
        self._environment = {**os.environ, **environment}
        self.log = log
        self._clean_up = clean_up
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Return the running process's id."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Return how the process ended, None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start the process, once."""
        output = None if self.log is None else self.log.open("ab")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        finally:
            if output is not None:
                output.close()

    async def keep_alive(self, report: Callable[[str], None]) -> None:
        """Restart the process whenever it ends, until `stop`."""
        delay_s = _FIRST_DELAY_S
        while not self._is_stopping():
            assert self._process is not None
            started = time.monotonic()
            status = await self._process.wait()
            self._end_group()
            if self._is_stopping():
                return
            if time.monotonic() - started > _HEALTHY_AFTER_S:
                delay_s = _FIRST_DELAY_S
            report(f"{self.name} ended ({_describe(status)}); it is started again in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            if not self._is_stopping():
                await self.start()

    def kill(self) -> None:
        """End the process by force; `keep_alive` starts it again."""
        if self.pid is not None:
            self._kill_group()

    async def stop(self) -> None:
        """End the process and everything that it started; by force after a grace period."""
        self._stopping = True
        if self._process is None:
            return
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _STOP_GRACE_S)
        self._kill_group()
        await self._process.wait()
        self._end_group()

    def _is_stopping(self) -> bool:
        return self._stopping  # changes at any await

    def _end_group(self) -> None:
        self._kill_group()  # a server's helpers do not outlive it
        self._clean_up()

    def _kill_group(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _describe(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def _end_with_parent() -> None:
    # Should the supervisor itself be killed outright, the kernel ends its children (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
