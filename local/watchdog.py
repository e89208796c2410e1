"""What `keep_alive` cannot see: a process that lives and does not work.

Triton's Python backend runs each model in a process of its own, the stub. Triton 2.51 neither starts a dead
one again nor ends, and says that it is ready: every request fails from then on. Dead stubs stay as zombies of
Triton's, and are found within seconds. Whatever else keeps Triton from scoring (a stub that hangs, a server
that does) shows at the frontend's `/health/ready`, a real inference; it is given much longer, because a busy
machine may take long, too. Its answer names the parts that fail, and only whose part that is is ended: nobody,
where the ledger of GPU memory alone is away.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.supervised import Supervised

_LIVE_TIMEOUT_S: Final = 10.0
_READY_TIMEOUT_S: Final = 330.0
"""Longer than the frontend gives its own probe, so that it says which part did not answer."""
_OF_TRITON: Final = frozenset({"triton", "model"})
_OF_FRONTEND: Final = frozenset({"decode"})
# The stub, of whose name the kernel keeps 15 characters, or the shell that could not start it.
_STUBS: Final = ("triton_python_backend_stub"[:15], "bash")


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
            asked_at_s, asked_of = time.monotonic(), {part: part.pid for part in working}
            culprit = await asyncio.to_thread(self._find_culprit)
            if culprit is None:
                working = {part: part.pid for part in working}
                since.clear()
                continue
            if culprit.pid is None or culprit.pid != asked_of[culprit]:  # it is being started again already
                continue
            if since.get(culprit, (None, 0.0))[0] != culprit.pid:
                since = {culprit: (culprit.pid, asked_at_s)}
            # A process that has not worked yet may still be loading its model.
            limit_s = self._unready_limit_s if working[culprit] == culprit.pid else self._start_limit_s
            waited_s = time.monotonic() - since[culprit][1]
            if waited_s > limit_s:
                self._end(culprit, f"{culprit.name} lives but has not worked for {waited_s:.0f} s")

    def _find_culprit(self) -> Supervised | None:
        if not _is_200(f"{self._url}/health/live"):
            return self._frontend
        failing = _failing_parts(f"{self._url}/health/ready")
        if failing is None:
            return self._frontend
        if failing & _OF_TRITON:
            return self._triton
        return self._frontend if failing & _OF_FRONTEND else None

    def _end(self, part: Supervised, reason: str) -> None:
        self._report(f"{reason}: {part.name} is ended")
        part.kill()


def dead_stubs(parent: int) -> frozenset[int]:
    """Find the children of a Triton server that died and were not waited for: stubs, or the shells that start them."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
        except OSError:
            continue  # it ended meanwhile
        state, owner = rest.split()[:2]
        if state == "Z" and int(owner) == parent and head.partition("(")[2] in _STUBS:
            found.add(int(entry.name))
    return frozenset(found)


def _is_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_LIVE_TIMEOUT_S) as response:  # noqa: S310 - our own http address
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def _failing_parts(url: str) -> frozenset[str] | None:
    """Ask which parts keep the service from being ready; None where no answer says so."""
    try:
        with urllib.request.urlopen(url, timeout=_READY_TIMEOUT_S):  # noqa: S310 - our own http address
            return frozenset()
    except urllib.error.HTTPError as error:
        with error:
            return _read_failing(error)
    except (OSError, http.client.HTTPException):
        return None


def _read_failing(answer: urllib.error.HTTPError) -> frozenset[str] | None:
    try:
        parts = json.load(answer)["parts"]
        return frozenset(name for name, part in parts.items() if part["status"] != "ok")
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError):
        return None
