"""Image hosts that are slow, endless or many do not delay callers who send their images."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import pytest

from tests.hostile.good_caller import Service, service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


async def _silent(writer: asyncio.StreamWriter) -> None:
    await writer.wait_closed()


async def _dripping(writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Content-Length: 1000000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.1)


async def _endless_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD)
    while not writer.is_closing():
        writer.write(b"X: " + b"y" * 1000 + b"\r\n")
        await writer.drain()


async def _endless_body(writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


async def _single_byte_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1\r\nx\r\n" * 10_000)
        await writer.drain()


async def _held_back(writer: asyncio.StreamWriter) -> None:
    """Send 20 MiB except for the last byte."""
    size = 20 * 2**20
    writer.write(_HEAD + f"Content-Length: {size}\r\n\r\n".encode() + bytes(size - 1))
    await writer.drain()
    await writer.wait_closed()


async def _redirecting(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


HOSTS: Final[dict[str, Answer]] = {
    "silent": _silent,
    "dripping": _dripping,
    "endless headers": _endless_headers,
    "endless body": _endless_body,
    "chunks of one byte": _single_byte_chunks,
    "20 MiB but for a byte": _held_back,
    "redirecting": _redirecting,
}


@asynccontextmanager
async def _host(answer: Answer) -> AsyncIterator[int]:
    answering: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                await answer(writer)
        finally:
            writer.close()
            answering.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


async def _attack(tmp_path: Path, kind: str, requests: int, *, fetch_timeout_s: float) -> None:
    async with (
        _host(HOSTS[kind]) as port,
        service(tmp_path, fetch_allow=f"127.0.0.1:{port}", fetch_timeout_s=fetch_timeout_s) as attacked,
        attacked.with_good_caller(f"{requests} URLs of a host that is {kind}"),
    ):
        urls = (f"http://127.0.0.1:{port}/{n}" for n in range(requests))
        statuses = await asyncio.gather(*(_send(attacked, url) for url in urls))
    assert set(statuses) <= {0, 413, 422, 429, 504}


async def _send(attacked: Service, url: str) -> int:
    status, _ = await attacked.ask("/score", json.dumps({"prompt": "x", "image_url": url}).encode())
    return status


@pytest.mark.parametrize("kind", ["silent", "chunks of one byte"])
async def test_a_few_bad_urls(tmp_path: Path, kind: str) -> None:
    """Each bad URL is given up, and a good caller is answered meanwhile."""
    await _attack(tmp_path, kind, 3, fetch_timeout_s=1)


@pytest.mark.hostile
@pytest.mark.parametrize("kind", HOSTS)
async def test_many_bad_urls(tmp_path: Path, kind: str) -> None:
    """However many requests wait for their hosts, a good caller is answered meanwhile."""
    await _attack(tmp_path, kind, 300, fetch_timeout_s=5)
