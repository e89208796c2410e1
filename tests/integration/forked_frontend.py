"""`python -m frontend`, forked from a process that has imported it already.

Tests start fifty frontends, and the imports are what their start costs. `local up`, the containers
and the hostile tests start frontends as a person does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_parents: list[subprocess.Popen[str]] = []


class Forked:
    """What tests need of a process that is not their child, named as in `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return None while it runs, 0 however it ended."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float) -> int:
        """Wait until it ends."""
        if not select.select([self._descriptor], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("frontend", timeout)
        return 0

    def send_signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._descriptor, number)


def start(environment: dict[str, str], log: Path) -> Forked:
    """Start a frontend in a session of its own, with these variables besides the test's own."""
    if not _parents:
        command = [sys.executable, "-m", "tests.integration.forked_frontend"]
        pipe = subprocess.PIPE
        _parents.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
    to_parent, from_parent = _parents[0].stdin, _parents[0].stdout
    assert to_parent is not None
    assert from_parent is not None
    print(json.dumps([{**os.environ, **environment}, str(log)]), file=to_parent, flush=True)
    return Forked(int(from_parent.readline()))


def close() -> None:
    """End the process that forks, but no frontend."""
    with suppress(IndexError):
        _parents.pop().communicate()


def _fork_for_each_line() -> None:
    from frontend.service import run

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here asks how they ended
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _detach(*json.loads(line))
            sys.exit(run())
        print(pid, flush=True)  # noqa: T201 - to the test


def _detach(environment: dict[str, str], log: str) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for path, flags, target in ((os.devnull, os.O_RDONLY, 0), (log, os.O_WRONLY | os.O_APPEND, 1)):
        opened = os.open(path, flags | os.O_CREAT)
        os.dup2(opened, target)
        os.close(opened)
    os.dup2(1, 2)


if __name__ == "__main__":
    _fork_for_each_line()
