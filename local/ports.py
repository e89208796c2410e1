"""Ports of this machine that nobody listens on."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress
from typing import Final

# Below those that systems give to whoever wants any (on Linux from 32768 on): there, a connection
# of somebody else may take a port that was found free before it is used.
_RANGE: Final = range(10_000, 20_000)


def free_ports(count: int) -> list[int]:
    """Find as many free ports of 127.0.0.1; all different, free at the time.

    Raises:
        OSError: there are not so many.
    """
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(errno.EADDRINUSE, f"there are not {count} free ports")
