"""The service under attack, and somebody who asks it ordinary questions meanwhile.

That no score of his is wrong is asserted. How often he is answered and how long he waits is printed
(`pytest -s`), since it says as much about the machine.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import time
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import uvicorn

from frontend.app import create_app
from frontend.settings import Settings
from tests.pictures import photograph
from tests.unit.frontend.triton.stand_in import publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager
    from pathlib import Path

_PAUSE_S: Final = 0.05
_QUESTION: Final = {
    "prompt": "a cup of coffee",
    "image_base64": base64.b64encode(photograph("coffee")).decode(),
}


class _Server(uvicorn.Server):
    """A server that leaves the signal handlers to the test runner."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


class Service:
    """The frontend over a stand-in for Triton, on a port of its own."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer to one request."""
        async with self._session.post(self._url + path, json=body) as response:
            return response.status, await response.json()

    @asynccontextmanager
    async def with_good_caller(self, attack: str) -> AsyncIterator[None]:
        """Ask again and again until the block ends.

        Raises:
            AssertionError: he got another score than before.
        """
        expected = await self.ask("/score", _QUESTION)
        assert expected[0] == 200
        waits_s: list[float] = []
        answers: collections.Counter[int] = collections.Counter()

        async def ask_on() -> None:
            while True:
                begun = time.monotonic()
                status, answer = await self.ask("/score", _QUESTION)
                waits_s.append(time.monotonic() - begun)
                answers[status] += 1
                assert status != 200 or answer["raw_score"] == expected[1]["raw_score"]
                await asyncio.sleep(_PAUSE_S)

        caller = asyncio.create_task(ask_on())
        try:
            yield
            await asyncio.sleep(_PAUSE_S)
        finally:
            caller.cancel()
            with suppress(asyncio.CancelledError):
                await caller
        print(f"\n{attack}: good caller {dict(answers)}, worst {max(waits_s, default=0):.2f} s")  # noqa: T201


@asynccontextmanager
async def service(directory: Path, **settings: Any) -> AsyncIterator[Service]:
    """Start the frontend with these settings, and no cache, so that everybody's image is decoded."""
    async with standing_in() as triton:
        app = create_app(
            Settings(
                triton_url=f"127.0.0.1:{triton.port}",
                model_repository=publish_manifest(directory),
                max_cache_bytes=0,
                **{"decode_workers": 2, **settings},
            )
        )
        server = _Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        connector = aiohttp.TCPConnector(limit=0)
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                yield Service(session, f"http://127.0.0.1:{port}")
        finally:
            server.should_exit = True
            await serving
