"""How long the frontend's event loop stands still under requests that cost much processor time.

    python -m bench.loop_lag

64 requests: prompts of 10,000 combining marks, then batches of 65 MB of base64, two at once (answered) and all at
once (mostly refused, too many bodies). The frontend runs in this process, before a stand-in for Triton that answers
at once; the callers run in another. Other load of the machine shows in the lag, not in the loop's own work.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import io
import json
import logging
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import uvicorn
from PIL import Image

from frontend.app import create_app
from frontend.settings import Settings
from tests.unit.frontend.triton.stand_in import publish_manifest, standing_in

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

REQUESTS = int(__import__("os").environ.get("REQ", "64"))
_TICK_S = 0.001


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


async def measure() -> None:
    """Print the lag at rest and under each kind of request."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as directory:
        async with standing_in() as triton:
            settings = Settings(
                triton_url=f"127.0.0.1:{triton.port}",
                model_repository=publish_manifest(Path(directory)),
                max_cache_bytes=0,
            )
            server = _Server(uvicorn.Config(create_app(settings), port=0, log_config=None))
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            await _report("at rest", asyncio.sleep(3))
            for kind, at_once in (("prompt", 64), ("batch", 2), ("batch", 64)):
                name = f"{REQUESTS} x {kind}, {at_once} at once"
                await _report(name, _callers(kind, at_once, port))
            server.should_exit = True
            await serving


async def _report(name: str, work: object) -> None:
    watch = asyncio.create_task(_watch_ticks())
    started = time.monotonic()
    answers = await work  # type: ignore[misc]
    took_s = time.monotonic() - started
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch
    lags, own = np.array(TICKS).T * 1000
    print(
        f"{name}: lag at most {lags.max():.1f} ms, p99.9 {np.percentile(lags, 99.9):.1f}, "
        f"p99 {np.percentile(lags, 99):.1f}; the loop's own work at most {own.max():.1f} ms; "
        f"{took_s:.1f} s; answers {answers or '-'}"
    )


TICKS: list[tuple[float, float]] = []
"""Seconds by which a tick was late, and of processor time that the loop's thread took before it."""


async def _watch_ticks() -> None:
    TICKS.clear()
    while True:
        due, used = time.perf_counter() + _TICK_S, time.thread_time()
        await asyncio.sleep(_TICK_S)
        TICKS.append((time.perf_counter() - due, time.thread_time() - used))


async def _callers(kind: str, at_once: int, port: int) -> str:
    """Run them apart, so that their own work is not the loop's."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.loop_lag", kind, str(at_once), str(port)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return output.decode().strip()


async def _call(kind: str, at_once: int, port: int) -> None:
    body = _body(kind)
    head = (
        f"POST /score{'-batch' * (kind == 'batch')} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    )
    request = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    places = asyncio.Semaphore(at_once)

    async def ask() -> str:
        async with places:
            return await _ask(port, request)

    statuses = await asyncio.gather(*(ask() for _ in range(REQUESTS)))
    print(dict(collections.Counter(statuses)))


def _body(kind: str) -> bytes:
    if kind == "prompt":
        return json.dumps({"prompt": "\u0301\u0316" * 5000, "image_base64": _image(64)}).encode()
    images = [{"image_base64": _image(1800)} for _ in range(5)]  # about 10 MB each, as PNG
    return json.dumps({"prompt": "x", "candidates": images}).encode()


def _image(side: int) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return base64.b64encode(file.getvalue()).decode()


async def _ask(port: int, request: bytes) -> str:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        line = (await reader.readline()).split(b" ")
        writer.close()
        return line[1].decode() if len(line) > 1 else "closed"
    except ConnectionError:
        return "reset"


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(_call(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    else:
        asyncio.run(measure())
