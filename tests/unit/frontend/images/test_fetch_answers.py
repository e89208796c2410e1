"""What a guarded download does with the answers it gets: bytes, encodings, failures, time."""

from __future__ import annotations

import asyncio
import gzip
import socket
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest

from frontend.errors import DeadlineExceeded, ServiceError
from frontend.images.addresses import parse_allow
from frontend.images.errors import ImageNotReached, ImageTooLarge, ImageUnreachable
from frontend.images.fetch import _Sipping
from tests.unit.frontend.images.stand_ins import IMAGE, Net, fetching, http, redirect, standing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.frontend.images.stand_ins import Answer


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with standing() as net:
        yield net


def chunked(*chunks: bytes, headers: str = "", end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode() + body + end


BIG = bytes(range(256)) * 40  # 10,240 bytes; the limit is 10,000

BODIES: dict[str, tuple[Answer, bytes | type[ServiceError]]] = {
    "exactly the limit": (http(BIG[:10_000]), BIG[:10_000]),
    "chunked": (chunked(b"ab", b"cd"), b"abcd"),
    "empty": (http(b""), b""),
    "until the end": (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc"),
    "gzip": (http(gzip.compress(IMAGE), "Content-Encoding: gzip"), IMAGE),
    "deflate": (http(zlib.compress(IMAGE), "Content-Encoding: deflate"), IMAGE),
    "identity": (http(IMAGE, "Content-Encoding: identity"), IMAGE),
    "one above": (http(BIG[:10_001]), ImageTooLarge),
    "announced": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", ImageTooLarge),
    "chunked above": (chunked(*[BIG[:2000]] * 6), ImageTooLarge),
    "endless": (b"HTTP/1.0 200 OK\r\n\r\n" + bytes(10_001), ImageTooLarge),
    "gzip bomb": (http(gzip.compress(bytes(10_000_000))[:9_000], "Content-Encoding: gzip"), ImageTooLarge),
    "gzip of nothing": (
        chunked(*[gzip.compress(b"")[:10], *[b"\x00\x00\x00\xff\xff" * 300] * 20], headers="Content-Encoding: gzip\r\n"),
        ImageTooLarge,
    ),
    "truncated": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", ImageNotReached),
    "crumbs": (chunked(*[b"x"] * 5000), ImageUnreachable),
    "few crumbs": (chunked(*[b"x"] * 200), b"x" * 200),
    "truncated chunks": (chunked(b"abc", end=b"5\r\nab"), ImageNotReached),
    "bad chunks": (chunked(b"abc", end=b"zz\r\n"), ImageNotReached),
    "truncated gzip": (http(gzip.compress(IMAGE)[:-9], "Content-Encoding: gzip"), ImageNotReached),
    "damaged gzip": (http(IMAGE, "Content-Encoding: gzip"), ImageUnreachable),
    "brotli": (http(IMAGE, "Content-Encoding: br"), ImageUnreachable),
    "gzip twice": (http(IMAGE, "Content-Encoding: gzip, gzip"), ImageUnreachable),
    "not found": (http(IMAGE, status="404 Not Found"), ImageUnreachable),
    "partial": (http(IMAGE, status="206 Partial Content"), ImageUnreachable),
    "no content": (http(b"", status="204 No Content"), ImageUnreachable),
    "error": (http(IMAGE, status="500 Error"), ImageNotReached),
    "redirect to nowhere": (http(IMAGE, status="302 Found"), ImageUnreachable),
    "not http": (b"220 smtp.test ready\r\n", ImageNotReached),
    "hang up": (b"", ImageNotReached),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", ImageNotReached),
    "long header": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", ImageNotReached),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
async def test_bodies(net: Net, name: str) -> None:
    """Bytes are counted as they arrive, and again as they are decompressed.

    A broken answer is the host's fault and has a code of its own. So have statuses and transfers
    that may be better the next time.
    """
    answer, expected = BODIES[name]

    async def once(writer: asyncio.StreamWriter) -> None:
        assert isinstance(answer, bytes)
        writer.write(answer)
        await writer.drain()

    net.answers["/"] = once  # and the connection closes
    async with fetching(net) as fetcher:
        fetch = fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=5)
        if isinstance(expected, bytes):
            assert await fetch == expected
            return
        with pytest.raises(expected) as error:
            await fetch
    assert type(error.value) is expected
    assert "127" not in error.value.detail


@pytest.mark.parametrize("name", ["chunked above", "truncated gzip"])
async def test_an_error_keeps_no_bytes(net: Net, name: str) -> None:
    """What was received before an error is let go, however long the error's traceback lives."""
    net.answers["/"], expected = BODIES[name]
    assert not isinstance(expected, bytes)
    async with fetching(net) as fetcher:
        with pytest.raises(expected) as error:
            await fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=5)
    kept = [value for entry in error.traceback for value in entry.frame.f_locals.values()]
    assert [bytes(value) for value in kept if isinstance(value, bytearray)] == [b""] * 2


async def test_an_endless_body_is_not_read_to_its_end(net: Net) -> None:
    """The transfer stops at the limit, whatever else the host sends."""
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            sent += 65_536
            await writer.drain()

    net.answers["/"] = endless
    async with fetching(net) as fetcher:
        with pytest.raises(ImageTooLarge):
            await fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=60)
    assert sent < 64 * 2**20


async def test_a_bomb_is_not_unfolded(net: Net) -> None:
    """A small chunk that decompresses to a huge one is decompressed only up to the limit."""
    net.answers["/"] = http(gzip.compress(bytes(100_000_000)), "Content-Encoding: gzip")
    async with fetching(net, max_bytes=1_000_000) as fetcher:
        tracemalloc.start()
        try:
            with pytest.raises(ImageTooLarge):
                await fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=20)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak_bytes < 10_000_000


@pytest.mark.parametrize(
    "url", ["http://nowhere.test:§/", "http://refused.test:§/", "https://public.test:§/"]
)
async def test_unreachable(net: Net, url: str) -> None:
    """An unknown name, a refused connection and a failed TLS handshake are unreachable.

    The answer does not tell the address.
    """
    net.names["refused.test"] = [["127.0.0.9"]]
    async with fetching(net, allow=parse_allow("127.0.0.9"), connect_timeout_s=0.5) as fetcher:
        with pytest.raises(ImageUnreachable) as error:
            await fetcher.fetch(url.replace("§", str(net.port)), timeout_s=5)
    assert "127" not in error.value.detail
    assert error.value.internal


# --- Time -----------------------------------------------------------------------------------------


async def silent(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def trickling(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("answer", [silent, trickling])
async def test_deadline_and_total(net: Net, answer: Answer) -> None:
    """A host that is silent or slow is given up in time.

    The request's own deadline gives 504, the total limit of the policy gives 422.
    """
    net.answers["/"] = answer
    url = f"http://public.test:{net.port}/"
    async with fetching(net, total_timeout_s=30.0) as fetcher:
        with pytest.raises(DeadlineExceeded):
            await fetcher.fetch(url, timeout_s=0.1)
    async with fetching(net, total_timeout_s=0.1) as fetcher:
        with pytest.raises(ImageUnreachable, match="longer than"):
            await fetcher.fetch(url, timeout_s=30)


async def test_the_deadline_spans_redirects(net: Net) -> None:
    """One deadline holds for the whole chain of redirects, not for each."""

    async def slow_hop(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(redirect("/"))
        await writer.drain()

    net.answers["/"] = slow_hop
    async with fetching(net, max_redirects=1000) as fetcher:
        with pytest.raises(DeadlineExceeded):
            await fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=0.7)
    assert len(net.requests) <= 3


async def test_connect_timeout(net: Net) -> None:
    """A host that accepts no connection in time is unreachable, long before the deadline."""
    with socket.create_server(("127.0.0.9", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.9", port))
        async with fetching(net, allow=parse_allow(f"127.0.0.9:{port}"), connect_timeout_s=0.2) as fetcher:
            with pytest.raises(ImageUnreachable, match="in time"):
                await fetcher.fetch(f"http://127.0.0.9:{port}/", timeout_s=30)
        for filler in fillers:
            filler.close()


async def test_cancelling_closes_the_connection(net: Net) -> None:
    """When the caller goes away, the transfer ends."""
    begun, gone = asyncio.Event(), asyncio.Event()

    async def until_gone(writer: asyncio.StreamWriter) -> None:
        begun.set()
        try:
            await trickling(writer)
        finally:
            gone.set()

    net.answers["/"] = until_gone
    async with fetching(net) as fetcher:
        task = asyncio.create_task(fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=30))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 20)


async def test_little_is_read_at_once() -> None:
    """Parsing what a host sends leaves turns for other work, over TLS (`recv_into`), too."""
    ours, theirs = socket.socketpair()
    with theirs, _Sipping(fileno=ours.detach()) as sipping:
        theirs.sendall(bytes(100_000))
        assert len(sipping.recv(2**18)) == 2**14
        assert sipping.recv_into(bytearray(2**18)) == 2**14
        assert sipping.recv_into(bytearray(2**18), 100) == 100
        assert sipping.recv_into(bytearray(10)) == 10
