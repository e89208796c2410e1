"""Connections are bounded, and a client that keeps one waiting loses it."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import weakref
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
import uvicorn

from frontend.http.connections import CROWDED, Connection, Connections
from frontend.http.serve import _listeners

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server(uvicorn.Server):
    """uvicorn's server over an application that holds, reads or answers by the path."""

    def __init__(self, connections: Connections) -> None:
        self.all = connections
        self.held = 0
        self.release = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                self.answer,
                http=cast("type[asyncio.Protocol]", partial(Connection, connections)),
                interface="asgi3",
                ws="none",
                lifespan="off",
                log_config=None,
            )
        )
        self.sockets = _listeners("127.0.0.1", 0)
        self.port: int = self.sockets[0].getsockname()[1]

    def install_signal_handlers(self) -> None:
        """Leave the signals to pytest."""

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b"crowded" if scope["state"].get(CROWDED) else b"room"
        match scope["path"]:
            case "/hold":
                self.held += 1
                await self.release.wait()
            case "/read":
                self.held += 1
                while (await receive()).get("more_body"):
                    pass
            case "/large":
                body = bytes(2**25)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def count_is(self, count: int) -> None:
        """Wait until so many connections are counted."""
        async with asyncio.timeout(10):
            while len(self.all) != count:  # noqa: ASYNC110 - counted by the server
                await asyncio.sleep(0.01)

    async def held_reach(self, count: int) -> None:
        """Wait until so many requests are in work."""
        async with asyncio.timeout(10):
            while self.held < count:  # noqa: ASYNC110 - counted by the application
                await asyncio.sleep(0.01)


class Client:
    """One connection, whose bytes the test writes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: bytes = HEAD) -> bytes:
        """Send a request and return the body of its answer, which is short."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        del head
        return await self.reader.read(100)

    async def is_closed(self) -> bool:
        """Wait until the server closes the connection; return whether it said nothing before."""
        try:
            async with asyncio.timeout(10):
                return await self.reader.read() == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def serving(
    max_open: int = 100, *, max_extra: int = 2, patience_s: float = 60
) -> AsyncIterator[Server]:
    """Run the server until the block ends."""
    server = Server(Connections(max_open, max_extra=max_extra, patience_s=patience_s))
    running = asyncio.create_task(server._serve(sockets=server.sockets))
    try:
        async with asyncio.timeout(10):
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
        yield server
    finally:
        server.release.set()
        server.should_exit = server.force_exit = True
        await running


@asynccontextmanager
async def connected(
    server: Server, count: int = 1, *, address: str = "127.0.0.1"
) -> AsyncIterator[list[Client]]:
    """Connect so many times from this address, one after the other."""
    clients: list[Client] = []
    try:
        for number in range(count):
            clients.append(
                Client(*await asyncio.open_connection("127.0.0.1", server.port, local_addr=(address, 0)))
            )
            while len(server.all) <= min(number, server.all._max_open - 1):  # noqa: ASYNC110
                await asyncio.sleep(0)
        yield clients
    finally:
        for client in clients:
            client.writer.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", HEAD[:-1]])
async def test_a_head_that_does_not_come_is_given_up(sent: bytes) -> None:
    """A client that does not finish the head of its request is left, or does not even begin it."""
    async with serving(patience_s=0.3) as server, connected(server) as (client,):
        client.writer.write(sent)
        assert await client.is_closed()
        assert len(server.all) == 0


async def test_bytes_that_trickle_win_no_time() -> None:
    """After an answer, a next head that comes byte by byte is given up as well."""
    async with serving(patience_s=0.5) as server, connected(server) as (client,):
        assert await client.ask() == b"room"
        for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 1000:
            if not len(server.all):
                break
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        assert len(server.all) == 0


async def test_a_body_that_nobody_waits_for_is_given_up() -> None:
    """Whose request is answered before its body has come may send on for a while, and no longer."""
    async with serving(patience_s=0.3) as server, connected(server) as (client,):
        assert await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nfew") == b"room"
        assert await client.is_closed()


async def test_an_early_answer_reaches_a_client_that_reads_it_late() -> None:
    """A connection that ends with an early answer ends when its client has seen that, not before.

    The client sends all of its body before it reads.
    """
    body = b"x" * 2**25
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)

    def ask(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(head + body)
            return b"".join(iter(partial(client.recv, 2**16), b""))

    async with serving() as server:
        answer = await asyncio.to_thread(ask, server.port)
        assert answer.startswith(b"HTTP/1.1 200")
        await server.count_is(0)


async def test_a_client_that_does_not_take_its_leave_is_left() -> None:
    """After an early answer that ends the connection, a client may send on for a while only."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n"
    async with serving(patience_s=0.3) as server, connected(server) as (client,):
        assert await client.ask(head) == b"room"
        assert await client.reader.read() == b""
        assert len(server.all) == 1
        await server.count_is(0)


async def test_a_connection_that_has_ended_is_let_go() -> None:
    """What a connection had read is freed with it, not when the garbage collector comes by."""
    async with serving() as server, connected(server) as (client,):
        assert await client.ask() == b"room"
        ended = weakref.ref(next(iter(server.all._open)))
        gc.disable()
        try:
            client.writer.close()
            await server.count_is(0)
            await asyncio.sleep(0.1)
            assert ended() is None
        finally:
            gc.enable()


async def test_an_answer_that_is_not_read_is_given_up() -> None:
    """A client that does not read its answer is left."""
    async with serving(patience_s=0.3) as server, connected(server) as (client,):
        client.writer.write(HEAD.replace(b"/ ", b"/large ", 1))
        async with asyncio.timeout(10):
            while len(server.all):  # noqa: ASYNC110 - counted by the server
                await asyncio.sleep(0.01)


async def test_a_request_in_work_may_take_its_time() -> None:
    """The patience is with clients: who waits for an answer is not left."""
    async with serving(patience_s=0.1) as server, connected(server) as (client,):
        asking = asyncio.create_task(client.ask(HEAD.replace(b"/ ", b"/hold ", 1)))
        await server.held_reach(1)
        await asyncio.sleep(0.3)
        server.release.set()
        assert await asking == b"room"


async def test_who_waits_longest_makes_room() -> None:
    """If there are too many connections, the one that has been idle for longest is closed."""
    async with serving(3) as server, connected(server, 3) as (first, second, third):
        assert await first.ask() == b"room"  # so it has waited for less time than the second
        async with connected(server) as (fourth,):
            assert await fourth.ask() == b"room"
            assert await second.is_closed()
            assert await first.ask() == b"room"
            assert await third.ask() == b"room"


async def test_who_has_most_connections_makes_room() -> None:
    """An address with one connection keeps it, however long it waits, if another has two."""
    async with serving(3) as server, connected(server) as (only,):
        async with connected(server, 4, address="127.0.0.2") as many:
            assert await many[0].is_closed()
            assert await many[1].is_closed()
            assert await only.ask() == b"room"
        await server.count_is(1)


async def test_who_has_many_takes_no_place_from_those_who_have_few() -> None:
    """If an address has many requests in work, its next connection closes no other's idle one."""
    hold = HEAD.replace(b"/ ", b"/hold ", 1)
    async with (
        serving(3) as server,
        connected(server) as (idle,),
        connected(server, 2, address="127.0.0.2") as many,
    ):
        for client in many:
            client.writer.write(hold)
        await server.held_reach(2)
        async with connected(server, address="127.0.0.2") as (another,):
            assert await another.ask() == b"room"  # it is one of few, so it has an extra place
            assert await idle.ask() == b"room"


async def test_the_slowest_body_makes_room() -> None:
    """If no connection is idle, the one whose body arrives most slowly is closed."""
    head = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"
    async with serving(2) as server, connected(server, 2) as (fast, slow):
        slow.writer.write(head)
        fast.writer.write(head + b"x" * 90)
        await server.held_reach(2)
        fast.writer.write(b"x" * 8)
        await asyncio.sleep(0.05)
        async with connected(server) as (late,):
            assert await late.ask() == b"room"
            assert await slow.is_closed()
            assert await fast.ask(b"x") == b"room"


async def test_one_too_many_is_told_so() -> None:
    """If all have requests in work, the next ones are told that it is crowded, and then dropped.

    A connection that is told so ends with its answer. An address with few connections is served.
    """
    hold = HEAD.replace(b"/ ", b"/hold ", 1)
    async with serving(8, max_extra=4) as server, connected(server, 8) as busy:
        for client in busy:
            client.writer.write(hold)
        await server.held_reach(8)
        async with connected(server, address="127.0.0.2") as (other,):
            assert await other.ask() == b"room"
        await server.count_is(8)
        async with connected(server) as (extra,):
            assert await extra.ask() == b"crowded"
            assert await extra.is_closed()
        async with connected(server) as (third,):
            third.writer.write(hold)
            await server.held_reach(9)
            async with connected(server) as (fourth,):
                fourth.writer.write(hold)
                await server.held_reach(10)
                async with connected(server) as (late,):
                    assert await late.is_closed()
                async with connected(server, address="127.0.0.2") as (other,):
                    assert await other.ask() == b"room"


async def test_a_head_has_at_most_100_headers() -> None:
    """A head of more headers is refused before it is parsed, also behind another request."""
    async with serving() as server, connected(server, 2) as (few, many):
        head = HEAD[:-2] + b"a: b\r\n" * 99 + b"\r\n"
        assert await few.ask(head) == b"room"
        many.writer.write(HEAD + HEAD[:-2] + b"a: b\r\n" * 100 + b"\r\n")
        assert (await many.reader.readline()).startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 400" in await many.reader.read()


async def test_a_body_in_crumbs_is_refused() -> None:
    """A chunked body of single bytes is refused after some hundreds; one of larger parts is not."""
    part = b"%x\r\n" % 300 + b"x" * 300 + b"\r\n"
    async with serving() as server, connected(server, 2) as (crumbs, parts):
        assert await parts.ask(CHUNKED + part * 1000 + b"0\r\n\r\n") == b"room"
        crumbs.writer.write(CHUNKED + b"1\r\nx\r\n" * 1000)
        assert (await crumbs.reader.readline()).startswith(b"HTTP/1.1 400")


async def test_only_what_is_not_parsed_is_read_in_large_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body with a length is read 64 KiB at once, heads and chunked bodies 16 KiB at once."""
    sizes: list[int] = []
    update = Connection.buffer_updated

    def note(self: Connection, nbytes: int) -> None:
        sizes.append(nbytes)
        update(self, nbytes)

    monkeypatch.setattr(Connection, "buffer_updated", note)
    body = bytes(10**6)
    plain = CHUNKED.replace(b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body))
    async with serving() as server, connected(server, 2) as clients:
        for client, request, most in (
            (clients[0], plain + body, 2**16),
            (clients[1], CHUNKED + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n", 2**14),
        ):
            sizes.clear()
            assert await client.ask(request) == b"room"
            assert sizes[0] <= 2**14
            assert max(sizes) == most


@pytest.mark.parametrize("path", [b"/", b"/read"])
async def test_a_body_that_breaks_writes_no_traceback(path: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A chunked body that breaks off with nonsense ends its connection, whether answered or not."""
    caplog.set_level(logging.INFO)
    async with serving() as server, connected(server) as (client,):
        client.writer.write(CHUNKED.replace(b"/read", path))
        if path == b"/":
            assert b"room" in await client.reader.readuntil(b"room")
        client.writer.write(b"nonsense\r\n\r\n")
        await client.is_closed()
    assert not [record for record in caplog.records if record.exc_info]


async def test_pipelined_requests_are_answered_in_turn() -> None:
    """Requests that are sent together are answered one by one."""
    async with serving(patience_s=5) as server, connected(server) as (client,):
        client.writer.write(HEAD * 100)
        for _ in range(100):
            await client.reader.readuntil(b"room")
        assert len(server.all) == 1
