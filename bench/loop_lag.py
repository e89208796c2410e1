"""Measure how long costly requests keep the frontend's event loop from other work.

    python -m bench.loop_lag

Each kind of request is sent once, when nothing is prepared yet, and then 64 times. There are
prompts of 10,000 combining marks, and batches of 65 MB of base64. The batches come two at once (all
answered) and all at once (most are refused for too many bodies).

The frontend runs in this process, before a stand-in for Triton that answers at once. The callers
run in another process. The lag contains what else the machine does, the loop's own work does not.
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
from frontend.http.serve import spare_what_is_there
from frontend.settings import Settings
from tests.unit.frontend.triton.stand_in import publish_manifest, standing_in

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

RUNS = ((1, "prompt", 1), (64, "prompt", 64), (64, "batch", 2), (64, "batch", 64))
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
            spare_what_is_there()  # as `python -m frontend` does
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            await _report("at rest", asyncio.sleep(3))
            for count, kind, at_once in RUNS:
                name = f"{count} x {kind}, {at_once} at once"
                await _report(name, _callers(count, kind, at_once, port))
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
"""For each tick: the seconds it was late, and the CPU seconds of the loop's thread before it."""


async def _watch_ticks() -> None:
    TICKS.clear()
    while True:
        due, used = time.perf_counter() + _TICK_S, time.thread_time()
        await asyncio.sleep(_TICK_S)
        TICKS.append((time.perf_counter() - due, time.thread_time() - used))


async def _callers(count: int, kind: str, at_once: int, port: int) -> str:
    """Run the callers in a process of their own, so that their work is not the loop's."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.loop_lag", str(count), kind, str(at_once), str(port)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return output.decode().strip()


async def _call(count: int, kind: str, at_once: int, port: int) -> None:
    body = _body(kind)
    head = (
        f"POST /score{'-batch' * (kind == 'batch')} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    )
    request = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    places = asyncio.Semaphore(at_once)

    async def ask() -> str:
        async with places:
            return await _ask(port, request)

    statuses = await asyncio.gather(*(ask() for _ in range(count)))
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
        asyncio.run(_call(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        asyncio.run(measure())
