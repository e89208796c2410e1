"""What `keep_alive` cannot see: a process that lives and does not work.

A dead Python stub of Triton's is found within seconds. Whatever else keeps the service from scoring shows
at the frontend's `/health/ready`. Being unready has one clock, whichever parts fail meanwhile: the one that
fails when the limit is reached is ended. The clock stands still while only the ledger of GPU memory is away,
which is nobody's fault, and while the part that fails is being started.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from local.http_call import http_call
from local.stubs import DeadStubs

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.supervised import Supervised

_TIMEOUT_S: Final = 10.0
"""The frontend answers from memory; on a busy machine, too, that takes no longer."""
NOTHING_KNOWN: Final = "nothing is known yet"
"""What a frontend says of a part before its first look: no word against that part."""
_OLDEST_NEWS_S: Final = 15.0
"""While all is well the frontend looks seldom: so long "ready" may be about a Triton that is gone."""
_OF_TRITON: Final = frozenset({"triton", "model"})
_OF_FRONTEND: Final = frozenset({"decode", "frontend"})


@dataclass(eq=False)
class Watchdog:
    """Kills what does not work; `Supervised.keep_alive` starts it again. Made once all have worked."""

    triton: Supervised
    frontend: Supervised
    url: str
    """Of the frontend."""
    report: Callable[[str], None]
    unready_limit_s: float
    start_limit_s: float
    """So long a process that was started again may take until it works."""
    stub_poll_s: float = 1.0
    ready_poll_s: float = 5.0
    _looked_s: float = field(default_factory=time.monotonic, init=False)
    _worked_s: float = field(default_factory=time.monotonic, init=False)
    """What was started before has worked."""
    _unready_s: float = field(default=0.0, init=False)

    async def watch_stubs(self) -> None:
        """End Triton when a Python stub of it has died, until cancelled."""
        stubs = DeadStubs()
        while True:
            await asyncio.sleep(self.stub_poll_s)
            if stubs.are_there(self.triton.pid):
                self._end(self.triton, "a Python stub of Triton's died")

    async def watch_readiness(self) -> None:
        """End what fails when the service has been unready for the limit, until cancelled."""
        while True:
            await asyncio.sleep(self.ready_poll_s)
            since_s, self._looked_s = self._looked_s, time.monotonic()
            health_url = f"{self.url}/health/ready"
            failing = _failing_parts(*await asyncio.to_thread(http_call, health_url, timeout_s=_TIMEOUT_S))
            if not failing:
                self._unready_s = 0.0
                self._worked_s = max(self._worked_s, self._looked_s - _OLDEST_NEWS_S)
                continue
            culprit = self._find_culprit(failing)
            if culprit is None or self._is_starting(culprit):
                continue
            # At most what a look takes: this process itself may have been stopped.
            self._unready_s += min(self._looked_s - since_s, self.ready_poll_s + _TIMEOUT_S)
            if self._unready_s > self.unready_limit_s:
                self._end(culprit, f"{culprit.name} lives but is not ready after {self._unready_s:.0f} s")
                self._unready_s = 0.0

    def _find_culprit(self, failing: frozenset[str]) -> Supervised | None:
        if failing & _OF_TRITON:
            return self.triton
        return self.frontend if failing & _OF_FRONTEND else None

    def _is_starting(self, part: Supervised) -> bool:
        """Tell whether it is not there, or has not worked yet and may be loading its model."""
        if part.pid is None:
            return True
        age_s = self._looked_s - part.started_s
        return part.started_s > self._worked_s and age_s < self.start_limit_s

    def _end(self, part: Supervised, reason: str) -> None:
        self.report(f"{reason}: {part.name} is ended")
        part.kill()


def _failing_parts(status: int, body: bytes) -> frozenset[str]:
    """Read what keeps the service from being ready; the frontend itself, where no answer says so."""
    if status == 200:
        return frozenset()
    try:
        parts = json.loads(body)["parts"].items()
        failing = [name for name, part in parts if part["status"] != "ok" and part["detail"] != NOTHING_KNOWN]
    except (ValueError, LookupError, TypeError, AttributeError):
        failing = []
    return frozenset(failing or ["frontend"])
