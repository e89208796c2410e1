"""A client that hangs up, over real sockets: work not yet started for it is never started."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, cast

import uvicorn

from frontend.app import create_app
from frontend.http.connections import Connection, Connections
from frontend.settings import Settings
from tests.unit.frontend.triton.stand_in import publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager
    from pathlib import Path


class Server(uvicorn.Server):
    """A server that leaves the signal handlers to the test runner."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def _serving(settings: Settings) -> AsyncIterator[int]:
    protocol = cast("type[asyncio.Protocol]", partial(Connection, Connections(64)))
    config = uvicorn.Config(create_app(settings), http=protocol, host="127.0.0.1", port=0, log_config=None)
    server = Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def _post(port: int, body: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    writer.write(head.encode() + b"\r\n\r\n" + content)
    await writer.drain()
    return reader, writer


async def test_a_download_ends_with_its_client(tmp_path: Path) -> None:
    """When the client hangs up, the connection to the image's host is closed."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # until the other side closes
        left.set()
        writer.close()

    images = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = images.sockets[0].getsockname()[1]
    async with standing_in() as triton:
        settings = Settings(
            triton_url=f"127.0.0.1:{triton.port}",
            model_repository=publish_manifest(tmp_path),
            fetch_allow=f"127.0.0.1:{port}",
            fetch_timeout_s=60,
            decode_workers=1,
        )
        async with _serving(settings) as own:
            _, writer = await _post(own, {"prompt": "x", "image_url": f"http://127.0.0.1:{port}/image.png"})
            await asyncio.wait_for(asked.wait(), 20)
            writer.close()
            await asyncio.wait_for(left.wait(), 20)
        assert not any("id" in inference for inference in triton.inferences)  # health's own has none
    images.close()


async def test_a_body_that_never_arrives_ends_at_the_deadline(tmp_path: Path) -> None:
    """A client that announces a body and does not send it gets 504 at its deadline."""
    settings = Settings(model_repository=tmp_path, request_timeout_s=0.3, decode_workers=1)
    async with _serving(settings) as own:
        reader, writer = await asyncio.open_connection("127.0.0.1", own)
        writer.write(
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        await writer.drain()
        line = await asyncio.wait_for(reader.readline(), 20)
        assert line.startswith(b"HTTP/1.1 504")
        writer.close()


async def test_two_lengths_of_one_body_end_the_connection(tmp_path: Path) -> None:
    """Content-Length beside Transfer-Encoding is refused (RFC 9112).

    Nothing behind that request is read.
    """
    async with _serving(Settings(model_repository=tmp_path, decode_workers=1)) as own:
        reader, writer = await asyncio.open_connection("127.0.0.1", own)
        writer.write(
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith((b"HTTP/1.1 422", b"HTTP/1.1 400"))
        assert answer.count(b"HTTP/1.1") == 1
        writer.close()
