"""Listening sockets, the connections that open files allow, and what is not collected."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from contextlib import suppress

import pytest
from fastapi import FastAPI

from frontend.http import serve
from frontend.http.serve import _listeners, _max_connections
from tests.unit.frontend.images.stand_ins import HAS_IPV6


def test_connections_stay_below_the_limit_of_files() -> None:
    """A connection counts as two files, some are left for other things, and there is a most."""
    assert _max_connections(1024) == 384
    assert _max_connections(100) == 32
    assert _max_connections(2**20) == 4096
    assert _max_connections(resource.RLIM_INFINITY) == 4096


@pytest.mark.skipif(not HAS_IPV6, reason="there is no IPv6 here")
def test_a_name_is_bound_at_each_of_its_addresses() -> None:
    """`::` is IPv6 alone, as an address of IPv4 is IPv4 alone, so that both fit on one port."""
    (four,) = _listeners("127.0.0.1", 0)
    with four:
        port = four.getsockname()[1]
        for six in _listeners("::", port):
            assert six.family == socket.AF_INET6
            six.close()


def test_the_collector_spares_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server runs, the garbage collector no longer looks through what is there by then."""
    imported = ["as a module"]
    looked_through: list[bool] = []

    def run(_: object, sockets: list[socket.socket]) -> None:
        looked_through.append(any(found is imported for found in gc.get_objects()))
        for listener in sockets:
            listener.close()

    assert any(found is imported for found in gc.get_objects())
    monkeypatch.setattr(serve._Server, "run", run)
    serve.serve(FastAPI(), host="127.0.0.1", port=0, grace_s=1)
    assert looked_through == [False]


def test_an_address_that_is_taken() -> None:
    """An address at which another listens is an error before anything else begins."""
    (first,) = _listeners("127.0.0.1", 0)
    with first:
        first.listen()
        with pytest.raises(OSError, match="in use"):
            _listeners("127.0.0.1", first.getsockname()[1])


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    accepted = []
    with suppress(BlockingIOError):
        while True:
            accepted.append(listener.accept()[0])
    return accepted


async def test_few_are_accepted_in_one_round() -> None:
    """In one round of the event loop 16 connections are accepted, and in the next 16 more."""
    (listener,) = _listeners("127.0.0.1", 0)
    clients = [socket.socket() for _ in range(40)]
    accepted: list[socket.socket] = []
    with listener:
        listener.listen(100)
        listener.setblocking(False)
        for client in clients:
            client.connect(listener.getsockname())
        counts = []
        for _ in range(3):
            accepted += _accept_all(listener)
            counts.append(len(accepted))
            await asyncio.sleep(0)
    for each in (*clients, *accepted):
        each.close()
    assert counts == [16, 32, 40]
