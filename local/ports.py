"""Ports of this machine that nobody listens on."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# These are below the ports that systems give to any connection (on Linux from 32768 on). There,
# another connection could take a free port before it is used.
RANGE: Final = range(10_000, 20_000)


def free_ports(count: int, among: Iterable[int] | None = None) -> list[int]:
    """Find this many free ports of 127.0.0.1, all different, in any order or in that of `among`.

    Raises:
        OSError: there are not so many.
    """
    found: list[int] = []
    for port in random.sample(RANGE, len(RANGE)) if among is None else among:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(errno.EADDRINUSE, f"there are not {count} free ports")
