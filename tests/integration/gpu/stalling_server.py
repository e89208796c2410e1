"""A web server that answers requests for a picture only when a test tells it to."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from tests.integration.servers import PICTURE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class StallingServer:
    """The server; it counts the requests that wait."""

    def __init__(self) -> None:
        self.address = ""
        self._waiting = 0
        self._may_answer = asyncio.Event()

    async def has(self, waiting: int) -> bool:
        return self._waiting >= waiting

    @property
    def url(self) -> str:
        return f"http://{self.address}/picture.png"

    def answer(self) -> None:
        self._may_answer.set()

    async def serve(self, request: web.Request) -> web.Response:
        del request
        self._waiting += 1
        await self._may_answer.wait()
        return web.Response(body=base64.b64decode(PICTURE), content_type="image/png")


@asynccontextmanager
async def stalling_server() -> AsyncIterator[StallingServer]:
    server = StallingServer()
    app = web.Application()
    app.router.add_get("/picture.png", server.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.address = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
