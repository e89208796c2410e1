"""What `keep_alive` cannot see: a process that lives and does not work.

Triton's Python backend runs each model in a process of its own, the stub. Triton 2.51 neither starts a dead
one again nor ends, and says that it is ready: every request fails from then on. Dead stubs stay as zombies of
Triton's, and are found within seconds. Whatever else keeps Triton from scoring (a stub that hangs, a server
that does) shows at the frontend's `/health/ready`, a real inference; it is given much longer, because a busy
machine may take long, too.
"""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.supervised import Supervised

_READY_TIMEOUT_S: Final = 30.0
_LIVE_TIMEOUT_S: Final = 10.0
_STUB: Final = "triton_python_backend_stub"[:15]  # the kernel keeps 15 letters


class Watchdog:
    """Kills what does not work; `Supervised.keep_alive` starts it again."""

    def __init__(
        self,
        triton: Supervised,
        frontend: Supervised,
        url: str,
        *,
        unready_limit_s: float,
        start_limit_s: float,
        report: Callable[[str], None],
        stub_poll_s: float = 1.0,
        ready_poll_s: float = 5.0,
    ) -> None:
        self._triton = triton
        self._frontend = frontend
        self._url = url
        self._unready_limit_s = unready_limit_s
        self._start_limit_s = start_limit_s
        self._report = report
        self._stub_poll_s = stub_poll_s
        self._ready_poll_s = ready_poll_s

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_stubs())
            group.create_task(self._watch_readiness())

    async def _watch_stubs(self) -> None:
        suspects: frozenset[int] = frozenset()
        while True:
            await asyncio.sleep(self._stub_poll_s)
            # Triton itself buries the stubs of a model that it unloads: only those that stay are dead.
            dead = frozenset() if self._triton.pid is None else dead_stubs(self._triton.pid)
            if suspects & dead:
                self._end(self._triton, "a Python stub of Triton's died")
                dead = frozenset()
            suspects = dead

    async def _watch_readiness(self) -> None:
        working: dict[Supervised, int | None] = {self._triton: None, self._frontend: None}
        since: dict[Supervised, tuple[int, float]] = {}
        while True:
            await asyncio.sleep(self._ready_poll_s)
            culprit = await asyncio.to_thread(self._find_culprit)
            if culprit is None:
                working = {part: part.pid for part in working}
                since.clear()
                continue
            if culprit.pid is None:  # it is being started again already
                continue
            if since.get(culprit, (None, 0.0))[0] != culprit.pid:
                since = {culprit: (culprit.pid, time.monotonic())}
            # A process that has not worked yet may still be loading its model.
            limit_s = self._unready_limit_s if working[culprit] == culprit.pid else self._start_limit_s
            waited_s = time.monotonic() - since[culprit][1]
            if waited_s > limit_s:
                self._end(culprit, f"{culprit.name} lives but has not worked for {waited_s:.0f} s")

    def _find_culprit(self) -> Supervised | None:
        if _status(f"{self._url}/health/ready", _READY_TIMEOUT_S) == 200:
            return None
        return self._triton if _status(f"{self._url}/health/live", _LIVE_TIMEOUT_S) == 200 else self._frontend

    def _end(self, part: Supervised, reason: str) -> None:
        self._report(f"{reason}: {part.name} is ended")
        part.kill()


def dead_stubs(parent: int) -> frozenset[int]:
    """Find the stubs of a Triton server that died and were not waited for."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
        except OSError:
            continue  # it ended meanwhile
        state, owner = rest.split()[:2]
        if state == "Z" and int(owner) == parent and head.partition("(")[2] == _STUB:
            found.add(int(entry.name))
    return frozenset(found)


def _status(url: str, timeout_s: float) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 - our own http address
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None
