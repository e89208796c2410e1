"""Ports for the servers of tests: no two of a run are given the same one.

Between the moment a port is found free and the moment a server listens on it, another test would
find it free, too.
"""

from __future__ import annotations

import os
import random
from itertools import cycle
from typing import Final

from local import ports

# Each process of pytest-xdist has ports of its own, and goes through them from anywhere, so that
# another run beside this one begins elsewhere.
_WORKERS: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OWN: Final = ports.RANGE[_WORKER::_WORKERS]
_START: Final = random.randrange(len(_OWN))
_NEXT: Final = cycle([*_OWN[_START:], *_OWN[:_START]])


def free_ports(count: int) -> list[int]:
    """Find this many free ports of 127.0.0.1 that nobody in this run has been given lately."""
    return ports.free_ports(count, among=_NEXT)
