"""Serve an application: the listening sockets, and as many open files as the system allows."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import uvicorn

from frontend.http.connections import Connection, Connections

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from starlette.types import ASGIApp

_MAX_CONNECTIONS: Final = 4096
_MIN_CONNECTIONS: Final = 32
_OTHER_FILES: Final = 256
"""Open files beside connections and bodies: Triton's, fetched images, workers, logs."""
_ACCEPTED_AT_ONCE: Final = 16


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    grace_s: float,
    delay_s: float = 0.0,
    on_ending: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGINT or SIGTERM; running requests are finished within `grace_s`.

    After SIGTERM `on_ending` is called, and requests are taken for `delay_s` more.

    Raises:
        OSError: nobody can listen at this address.
    """
    connections = Connections(_max_connections(_raise_file_limit()))
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", partial(Connection, connections)),
        ws="none",
        host=host,
        port=port,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    listeners = _listeners(host, port)
    spare_what_is_there()
    _Server(config, delay_s, on_ending).run(sockets=listeners)


def spare_what_is_there() -> None:
    """Let Python's garbage collector pass over everything that exists by now, from now on.

    What was imported stays as long as the process does. Each look through all of it keeps the event
    loop from other work for 50 ms (docs/decisions/off-the-event-loop.md).
    """
    gc.freeze()


class _Server(uvicorn.Server):
    """A server that says that it ends, for a proxy to hear, before it does."""

    def __init__(self, config: uvicorn.Config, delay_s: float, on_ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._delay_s = delay_s
        self._on_ending = on_ending
        self._is_ending = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End after a while; at once on SIGINT, or on a second signal."""
        if sig != signal.SIGTERM or self._is_ending or not self.started or not self._delay_s:
            super().handle_exit(sig, frame)
            return
        self._is_ending = True
        self._on_ending()
        # uvicorn wakes its loop ten times a second, so the timer is seen.
        asyncio.get_running_loop().call_later(self._delay_s, super().handle_exit, sig, frame)


def _raise_file_limit() -> int:
    """Allow this process as many open files as it may allow itself; return how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return files


def _max_connections(files: int) -> int:
    """Return how many connections so many open files allow: each may have a large body, a file."""
    if files == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return min(_MAX_CONNECTIONS, max(_MIN_CONNECTIONS, (files - _OTHER_FILES) // 2))


def _listeners(host: str, port: int) -> list[socket.socket]:
    """Bind a socket for each address of a host; nobody can connect yet."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        listener = _Listener(family, kind, protocol)
        listeners.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind(address)
        except OSError:
            for each in listeners:
                each.close()
            raise
    return listeners


class _Listener(socket.socket):
    """A listening socket that accepts a few connections in each round of the event loop.

    asyncio would accept 2,048 before it looks at the first of them. Where no more files may be
    opened, it would try, and log, as often; now it does so once a second.
    """

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - the socket's own
        super().__init__(*arguments)
        self._left = _ACCEPTED_AT_ONCE

    def accept(self) -> tuple[socket.socket, Any]:
        if self._left == _ACCEPTED_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._begin_round)
        if not self._left:
            raise BlockingIOError
        self._left -= 1
        try:
            return super().accept()
        except OSError:
            self._left = 0
            raise

    def _begin_round(self) -> None:
        self._left = _ACCEPTED_AT_ONCE
