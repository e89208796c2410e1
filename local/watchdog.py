"""What `keep_alive` cannot see: a process that lives but does not work.

A dead Python stub of Triton is found within seconds. Anything else that keeps the service from
scoring shows in the frontend's `/health/ready`.

There is one clock for being unready, whichever parts fail meanwhile. The part that fails when the
limit is reached is ended. The clock stands still while only the ledger of GPU memory is away, which
is nobody's fault, and while the failing part is being started.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local.http_call import http_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.supervised import Supervised

NOTHING_KNOWN: Final = "nothing is known yet"
"""What a frontend says about a part before its first look; it is not held against that part."""

_TIMEOUT_S: Final = 10.0
"""The frontend answers from memory, which takes no longer even on a busy machine."""
_OLDEST_NEWS_S: Final = 15.0
"""While all is well the frontend looks seldom, so for this long "ready" may be about an old Triton.
"""

_OF_TRITON: Final = frozenset({"triton", "model"})
OF_FRONTEND: Final = frozenset({"decode", "frontend"})

# The stub (the kernel keeps 15 characters of its name), or the shell that could not start it.
_STUBS: Final = ("triton_python_backend_stub"[:15], "bash")


async def watch(
    triton: Supervised,
    frontend: Supervised,
    health_url: str,
    report: Callable[[str], None],
    *,
    unready_limit_s: float,
    start_limit_s: float,
    poll_s: float = 1.0,
) -> None:
    """End what does not work, until cancelled; `Supervised.keep_alive` starts it again.

    Call it once everything has worked. A restarted process may take `start_limit_s` until it works.
    """
    looked_s = worked_s = time.monotonic()  # what was started before `worked_s` has worked
    unready_s = 0.0
    while True:
        if await has_dead_stub(triton, pause_s=poll_s):
            report("a Python stub of Triton's died: Triton is ended")
            triton.kill()
        since_s, looked_s = looked_s, time.monotonic()
        failing = failing_parts(*await asyncio.to_thread(http_call, health_url, timeout_s=_TIMEOUT_S))
        if not failing:
            unready_s = 0.0
            worked_s = max(worked_s, looked_s - _OLDEST_NEWS_S)
        culprit = triton if failing & _OF_TRITON else frontend if failing & OF_FRONTEND else None
        if culprit is None or culprit.pid is None:
            continue
        if culprit.started_s > worked_s and looked_s - culprit.started_s < start_limit_s:
            continue
        # Count at most the time that a look takes: this process itself may have been stopped.
        unready_s += min(looked_s - since_s, poll_s + _TIMEOUT_S)
        if unready_s > unready_limit_s:
            report(f"{culprit.name} lives but is not ready after {unready_s:.0f} s: it is ended")
            culprit.kill()
            unready_s = 0.0


async def has_dead_stub(triton: Supervised, *, pause_s: float) -> bool:
    """Look twice for a dead Python process of Triton, which Triton 2.51 does not start again.

    Triton runs each Python model in such a process, the stub. When one is dead, Triton says that it
    is ready, and fails every request. Triton removes the stubs that it ends itself, so only those
    that stay count.
    """
    first = dead_stubs(triton.pid)
    await asyncio.sleep(pause_s)
    return bool(first & dead_stubs(triton.pid))


def dead_stubs(triton: int | None) -> set[int]:
    """Find the dead children of a Triton that were not waited for: they stay as zombies."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
        except OSError:
            continue  # it ended meanwhile
        state, parent = rest.split()[:2]
        if state == "Z" and int(parent) == triton and head.partition("(")[2] in _STUBS:
            found.add(int(entry.name))
    return found


def failing_parts(status: int, body: bytes) -> frozenset[str]:
    """Read which parts keep the service from being ready; without an answer it is the frontend."""
    if status == 200:
        return frozenset()
    try:
        parts = json.loads(body)["parts"].items()
        failing = [name for name, part in parts if part["status"] != "ok" and part["detail"] != NOTHING_KNOWN]
    except (ValueError, LookupError, TypeError, AttributeError):
        failing = []
    return frozenset(failing or ["frontend"])
