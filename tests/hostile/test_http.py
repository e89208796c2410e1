"""Connections and messages that keep to no rules of HTTP, or to its rules alone."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import pytest

from tests.hostile.good_caller import service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.hostile.good_caller import Service

    Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

CONNECTIONS: Final = int(os.environ.get("AESTHETIC_HOSTILE_CONNECTIONS", "500"))
SECONDS: Final = float(os.environ.get("AESTHETIC_HOSTILE_SECONDS", "12"))

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_GET: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
_POST: Final = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_CHUNKED: Final = _POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def test_idle_connections_shut_nobody_out(tmp_path: Path) -> None:
    """More idle connections than open files are allowed cost a good caller nothing.

    Health is answered, and the log does not grow with them.
    """
    async with (
        service(tmp_path, max_files=512) as attacked,
        attacked.with_good_caller("700 idle connections, 512 open files"),
    ):
        before = attacked.log.stat().st_size
        async with _open(attacked, 700):
            for _ in range(10):
                assert await attacked.health() == 200
                assert (await attacked.ask("/score", b"{}"))[0] == 422
        assert attacked.log.stat().st_size < before + 20_000


@asynccontextmanager
async def _open(attacked: Service, count: int) -> AsyncIterator[None]:
    """Open connections and keep them, whatever comes back."""
    writers: list[asyncio.StreamWriter] = []
    try:
        for _ in range(count):
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", attacked.port)
                writers.append(writer)
        yield
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


# What is sent, and the statuses of the answers: at most one to what could be read in two ways.
MESSAGES: Final[dict[str, tuple[bytes, list[int]]]] = {
    "two lengths": (_POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + _GET + b"\r\n", [400]),
    "a list of lengths": (_POST + b"Content-Length: 2, 40\r\n\r\n{}" + _GET + b"\r\n", [400]),
    "a signed length": (_POST + b"Content-Length: +2\r\n\r\n{}" + _GET + b"\r\n", [400]),
    "a negative length": (_POST + b"Content-Length: -2\r\n\r\n{}" + _GET + b"\r\n", [400]),
    "a length in hexadecimal": (_POST + b"Content-Length: 0x2\r\n\r\n{}" + _GET + b"\r\n", [400]),
    "a length with an underscore": (_POST + b"Content-Length: 1_0\r\n\r\n{}" + _GET + b"\r\n", [400]),
    "a length of other digits": (_POST + "Content-Length: ٢\r\n\r\n{}".encode() + _GET + b"\r\n", [400]),
    "an endless length": (_POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", [400]),
    "length and chunks": (
        _POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _GET + b"\r\n",
        [422],
    ),
    "chunks and length": (
        _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + _GET + b"\r\n",
        [422],
    ),
    "chunked twice": (
        _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _GET + b"\r\n",
        [400],
    ),
    "chunked and another": (
        _POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + _GET + b"\r\n",
        [400],
    ),
    "another encoding": (_POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + _GET + b"\r\n", [400]),
    "an encoding behind a tab": (
        _POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + _GET + b"\r\n",
        [400],
    ),
    "a blank before the colon": (
        _POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + _GET + b"\r\n",
        [400],
    ),
    "a folded header": (_POST + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}", [422]),
    "a header that begins folded": (b"GET / HTTP/1.1\r\n X: a\r\nHost: x\r\n\r\n", [400]),
    "NUL in a header": (_GET + b"X: a\0b\r\n\r\n", [400]),
    "CR in a header": (_GET + b"X: a\rTransfer-Encoding: chunked\r\n\r\n", [400]),
    "no name of a header": (_GET + b": a\r\n\r\n", [400]),
    "no colon in a header": (_GET + b"X\r\n\r\n", [400]),
    "no host": (b"GET /health/live HTTP/1.1\r\n\r\n", [400]),
    "two hosts": (_GET + b"Host: y\r\n\r\n", [400]),
    "a long head": (_GET + b"X: " + b"a" * 200_000 + b"\r\n\r\n", [400]),
    "many headers": (_GET + b"a:\r\n" * 50_000 + b"\r\n", [400]),
    "101 headers": (_GET + b"a:\r\n" * 100 + b"\r\n", [400]),
    "100 headers": (_GET + b"a:\r\n" * 99 + b"\r\n", [200]),
    "a long target": (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
    "a long method": (b"A" * 200_000, [400]),
    "blank lines": (b"\r\n" * 100 + _GET + b"\r\n", [400]),
    "version 0.9": (b"GET /health/live\r\n\r\n", [400]),
    "version 1.0": (b"GET /health/live HTTP/1.0\r\n\r\n", [200]),
    "version 1.9": (b"GET /health/live HTTP/1.9\r\nHost: x\r\n\r\n", [200]),
    "version 3": (b"GET /health/live HTTP/3.0\r\nHost: x\r\n\r\n", [200]),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [404, 400]),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300, [400]),
    "a whole URL": (b"GET http://other/health/live HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
    "CONNECT": (b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n", [404]),
    "a target with NUL and dots": (b"GET /%00/../%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
    "a target of bad UTF-8": (b"GET /%ff%fe%ed%a0%80 HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
    "a target in bytes": (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
    "an upgrade to WebSocket": (
        _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n",
        [200],
    ),
    "an upgrade to HTTP/2": (
        _GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
        [200],
    ),
    "a chunk's size with a sign": (_CHUNKED + b"+2\r\n{}\r\n0\r\n\r\n" + _GET + b"\r\n", [400]),
    "a chunk's size with a prefix": (_CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n" + _GET + b"\r\n", [400]),
    "an endless size of a chunk": (_CHUNKED + b"f" * 100 + b"\r\n{}\r\n0\r\n\r\n", [400]),
    "a large size of a chunk": (_CHUNKED + b"f" * 15 + b"\r\n{}", []),
    "a chunk longer than its size": (_CHUNKED + b"1\r\n{}\r\n0\r\n\r\n" + _GET + b"\r\n", [400]),
    "a chunk without an end of line": (_CHUNKED + b"2\r\n{}0\r\n\r\n" + _GET + b"\r\n", [400]),
    "an extension of a chunk": (_CHUNKED + b"2;a=b\r\n{}\r\n0\r\n\r\n", [422]),
    "a long extension of a chunk": (_CHUNKED + b"2;" + b"a" * 200_000 + b"\r\n{}\r\n0\r\n\r\n", [400]),
    "a length behind the chunks": (
        _CHUNKED + b"2\r\n{}\r\n0\r\nContent-Length: 40\r\n\r\n" + _GET + b"\r\n",
        [422, 200],
    ),
    "long trailers": (_CHUNKED + b"2\r\n{}\r\n0\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", [400]),
    "crumbs": (_CHUNKED + b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n", [400]),
    "crumbs for nobody": (_CHUNKED.replace(b"/score", b"/nowhere") + b"1\r\n \r\n" * 100_000, [400]),
    "a body of GET": (_GET + b"Content-Length: 5\r\n\r\nGET /" + _GET + b"\r\n", [200, 200]),
    "a body that was not waited for": (
        _POST.replace(b"/score", b"/nowhere") + b"Content-Length: 5\r\n\r\nGET /" + _GET + b"\r\n",
        [404, 200],
    ),
    "an expectation that is none": (_POST + b"Expect: 999\r\nContent-Length: 2\r\n\r\n{}", [422]),
    "an encoded body": (_POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", [422]),
    "many at once": ((_GET + b"\r\n") * 500, [200] * 500),
}


async def test_messages_that_break_the_rules(tmp_path: Path) -> None:
    """Nothing is read in two ways: what is ambiguous is refused, and its connection closed."""
    async with service(tmp_path) as attacked:
        sent = (_answers(attacked, message, len(statuses)) for message, statuses in MESSAGES.values())
        answers = await asyncio.gather(*sent)
        assert dict(zip(MESSAGES, answers, strict=True)) == {
            name: statuses for name, (_, statuses) in MESSAGES.items()
        }
        assert await attacked.health() == 200
        assert b"Traceback" not in attacked.log.read_bytes()


async def _answers(attacked: Service, sent: bytes, expected: int) -> list[int]:
    """Return the statuses of the expected answers, and of what comes within a second more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", attacked.port)
    received = b""
    try:
        writer.write(sent)
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(30 if expected else 1) as limit:
                while part := await reader.read(2**16):
                    received += part
                    if len(_STATUS.findall(received)) >= expected:
                        limit.reschedule(asyncio.get_running_loop().time() + 1)
    finally:
        writer.transport.abort()
    return [int(status) for status in _STATUS.findall(received)]


async def _slowly(writer: asyncio.StreamWriter, content: bytes) -> None:
    for byte in content:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.5)


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del writer
    await reader.read()


async def _slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader
    await _slowly(writer, _GET + b"X: " + b"a" * 1000)


async def _slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader
    writer.write(_POST + b"Content-Length: 1000\r\n\r\n")
    await _slowly(writer, b" " * 1000)


async def _large_body_held_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_POST + b"Content-Length: 60000000\r\n\r\n" + b" " * 100_000)
    await reader.read()


async def _slow_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader
    writer.write(_CHUNKED)
    await _slowly(writer, b"1\r\n \r\n" * 1000)


async def _body_for_nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader
    writer.write(_POST.replace(b"/score", b"/nowhere") + b"Content-Length: 60000000\r\n\r\n")
    while True:
        writer.write(b" " * 10_000)
        await writer.drain()
        await asyncio.sleep(0.5)


async def _expectation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_POST + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
    await reader.read()


async def _unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader
    writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport of a socket has it
    while True:
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        await writer.drain()
        await asyncio.sleep(0.1)


async def _crumbs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_CHUNKED + b"1\r\n \r\n" * 100_000)
    await reader.read()


async def _crumbs_for_nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_CHUNKED.replace(b"/score", b"/nowhere") + b"1\r\n \r\n" * 100_000)
    await reader.read()


async def _full_heads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((_GET + b"a:\r\n" * 3900 + b"\r\n") * 20)
    for _ in range(20):
        await reader.readuntil(b"ok")


async def _nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"nonsense\r\n\r\n")
    await reader.read()


async def _gone_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader
    writer.write(_POST + b"Content-Length: 2\r\n\r\n{}")
    await writer.drain()


async def _many_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((_GET + b"\r\n") * 1000)
    await reader.read(10_000)


ATTACKS: Final[dict[str, Attack]] = {
    "silence": _silent,
    "a head, two bytes a second": _slow_head,
    "a body, two bytes a second": _slow_body,
    "60 MB announced and held back": _large_body_held_back,
    "chunks, two bytes a second": _slow_chunks,
    "a body for a path that is none": _body_for_nobody,
    "100-continue and no more": _expectation,
    "answers that nobody reads": _unread,
    "chunks of one byte": _crumbs,
    "chunks of one byte for a path that is none": _crumbs_for_nobody,
    "20 heads of 3,900 headers": _full_heads,
    "nonsense": _nonsense,
    "a request and gone": _gone_at_once,
    "1,000 requests at once": _many_at_once,
}


@pytest.mark.hostile
@pytest.mark.parametrize("kind", ATTACKS)
async def test_many_hostile_connections(tmp_path: Path, kind: str) -> None:
    """Whatever some hundred connections of another machine do, a good caller is answered.

    Each begins again as soon as it ends.
    """
    async with (
        service(tmp_path, max_files=1024) as attacked,
        attacked.with_good_caller(f"{CONNECTIONS} connections, 1024 open files: {kind}"),
    ):
        attackers = [asyncio.create_task(_again(attacked, ATTACKS[kind])) for _ in range(CONNECTIONS)]
        await asyncio.sleep(SECONDS)
        health = await attacked.health()
        for attacker in attackers:
            attacker.cancel()
        await asyncio.gather(*attackers, return_exceptions=True)
        assert health == 200
    assert b"Traceback" not in attacked.log.read_bytes()


async def _again(attacked: Service, attack: Attack) -> None:
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", attacked.port, local_addr=("127.0.0.2", 0)
            )
            try:
                await attack(reader, writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.1)
