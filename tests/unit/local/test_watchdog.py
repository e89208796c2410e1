"""What lives and does not work is ended, and nothing else."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import shutil
import subprocess
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from local.watchdog import Watchdog, dead_stubs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class Health:
    """A frontend's two health endpoints."""

    def __init__(self) -> None:
        self.failing: tuple[str, ...] = ()
        """Parts; while one of them fails the service is not ready."""
        self.is_live = True
        self.body: bytes | None = None
        """Of an answer that is not the frontend's own."""
        self.ready_asked = 0
        health = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/health/live":
                    status, body = 200 if health.is_live else 500, b"{}"
                else:
                    health.ready_asked += 1
                    status, body = 503 if health.failing else 200, health.body or health.parts()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def parts(self) -> bytes:
        """Answer as the frontend does."""
        parts = {
            name: {"status": "failing" if name in self.failing else "ok", "detail": "…"}
            for name in ("decode", "triton", "model", "gpu")
        }
        return json.dumps({"status": "unavailable" if self.failing else "ready", "parts": parts}).encode()


class Part:
    """A supervised process that is started again at once, under another id."""

    def __init__(self, name: str, pid: int | None) -> None:
        self.name = name
        self.pid = pid
        self.kills = 0
        self.killed = asyncio.Event()

    def kill(self) -> None:
        self.kills += 1
        self.killed.set()
        assert self.pid is not None
        self.pid += 1


@pytest.fixture
def health() -> Iterator[Health]:
    health = Health()
    thread = threading.Thread(target=health.server.serve_forever)
    thread.start()
    yield health
    health.server.shutdown()
    thread.join()
    health.server.server_close()


@asynccontextmanager
async def _watching(
    health: Health, triton: Part, *, unready_limit_s: float = 0.3, start_limit_s: float = 60
) -> AsyncIterator[tuple[Part, list[str]]]:
    frontend = Part("the frontend", 1_000_000_000)
    said: list[str] = []
    watchdog = Watchdog(
        triton,  # type: ignore[arg-type] # as much of a Supervised as it needs
        frontend,  # type: ignore[arg-type]
        health.url,
        unready_limit_s=unready_limit_s,
        start_limit_s=start_limit_s,
        report=said.append,
        stub_poll_s=0.05,
        ready_poll_s=0.05,
    )
    task = asyncio.create_task(watchdog.run())
    try:
        yield frontend, said
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _until_it_worked(health: Health) -> None:
    async with asyncio.timeout(60):
        while health.ready_asked < 2:  # noqa: ASYNC110 - asked again, it has heard the first answer
            await asyncio.sleep(0.02)


async def _until_killed(part: Part) -> None:
    await asyncio.wait_for(part.killed.wait(), 60)


async def test_what_works_is_left_alone(health: Health) -> None:
    """While the frontend is ready, or fails for less than the limit, nothing is ended."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton, unready_limit_s=30) as (frontend, said):
        await asyncio.sleep(0.3)
        health.failing = ("model",)
        await asyncio.sleep(0.3)
        health.failing = ()
        await asyncio.sleep(0.3)
    assert (triton.kills, frontend.kills, said) == (0, 0, [])


@pytest.mark.parametrize("failing", [("triton",), ("model",), ("triton", "gpu")])
async def test_a_triton_that_does_not_score_is_ended(health: Health, failing: tuple[str, ...]) -> None:
    """When a part of Triton's has failed for the limit, it is Triton that is ended, once."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton) as (frontend, said):
        await _until_it_worked(health)
        health.failing = failing
        await _until_killed(triton)
        await asyncio.sleep(0.6)  # the new one has not worked yet, and is given the time to load
    assert (triton.kills, frontend.kills) == (1, 0)
    assert said[0].startswith("Triton lives but has not worked for")


async def test_a_frontend_that_does_not_answer_is_ended(health: Health) -> None:
    """When not even the frontend's liveness answers, it is the frontend that is ended."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton) as (frontend, _):
        await _until_it_worked(health)
        health.is_live = False
        await _until_killed(frontend)
    assert triton.kills == 0


@pytest.mark.parametrize("failing", [("decode",), ("decode", "gpu")])
async def test_a_frontend_that_does_not_decode_is_ended(health: Health, failing: tuple[str, ...]) -> None:
    """When decoding has failed for the limit, it is the frontend that is ended: decoding is its own."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton) as (frontend, said):
        await _until_it_worked(health)
        health.failing = failing
        await _until_killed(frontend)
    assert triton.kills == 0
    assert said[0].startswith("the frontend lives but has not worked for")


async def test_a_ledger_that_is_away(health: Health) -> None:
    """When only the GPU's ledger fails, nobody is ended: it is neither Triton's nor the frontend's fault."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton, unready_limit_s=0.1, start_limit_s=0.1) as (frontend, said):
        health.failing = ("gpu",)
        await asyncio.sleep(0.6)
    assert (triton.kills, frontend.kills, said) == (0, 0, [])


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"parts": {"triton": null}}'])
async def test_an_answer_that_names_no_part(health: Health, body: bytes) -> None:
    """Whoever lives and cannot say what it lacks is the culprit itself; Triton is not ended for it."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton) as (frontend, _):
        await _until_it_worked(health)
        health.failing, health.body = ("model",), body
        await _until_killed(frontend)
    assert triton.kills == 0


async def test_a_model_that_takes_long_to_load(health: Health) -> None:
    """Before it has worked once, a process is given as long as a start may take; then it is ended, too."""
    health.failing = ("model",)
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton, unready_limit_s=0.1, start_limit_s=4):
        await asyncio.sleep(1)
        assert triton.kills == 0
        await _until_killed(triton)


async def test_a_process_that_is_being_started_again(health: Health) -> None:
    """A process that is not there at the moment is not ended: its supervisor is at work."""
    triton = Part("Triton", None)
    health.failing = ("triton",)
    async with _watching(health, triton, unready_limit_s=0.1, start_limit_s=0.1):
        await asyncio.sleep(0.5)
    assert triton.kills == 0


@pytest.fixture(params=["triton_python_backend_stub", "bash"])
def children(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """Two children of this process, of which the first has the name of the stub, or of the shell that starts it."""
    stub = tmp_path / str(request.param)
    shutil.copy(shutil.which("sleep") or "sleep", stub)
    found = subprocess.Popen([str(stub), "60"]), subprocess.Popen(["sleep", "60"])
    yield found
    for each in found:
        each.kill()
        each.wait()
    assert dead_stubs(os.getpid()) == frozenset()


async def test_a_dead_stub_ends_its_triton_at_once(
    health: Health, children: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]
) -> None:
    """A child of Triton's that carries the stub's name and stays a zombie is a dead stub; others are not."""
    stub, other = children
    triton = Part("Triton", os.getpid())
    async with _watching(health, triton) as (_, said):
        other.kill()
        await asyncio.sleep(0.4)
        assert triton.kills == 0
        stub.kill()
        await _until_killed(triton)
    assert dead_stubs(os.getpid()) == {stub.pid}
    assert said == ["a Python stub of Triton's died: Triton is ended"]
