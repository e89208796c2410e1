"""A process that lives but does not work is ended, and nothing else is."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import asynccontextmanager
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from frontend.scoring.health import HealthMonitor
from local.watchdog import NOTHING_KNOWN, dead_stubs, watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class Health:
    """A frontend's readiness."""

    def __init__(self) -> None:
        self.failing: tuple[str, ...] = ()
        """The parts that fail; with any of them the service is not ready."""
        self.turns: Iterator[tuple[str, ...]] | None = None
        """The parts that fail, for one answer after the other."""
        self.detail = "…"
        self.is_answering = True
        self.body: bytes | None = None
        """The body of an answer that is not the frontend's own."""
        self.ready_asked = 0
        health = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/health/ready"
                health.ready_asked += 1
                if not health.is_answering:
                    return
                if health.turns is not None:
                    health.failing = next(health.turns)
                self.send_response(503 if health.failing else 200)
                self.end_headers()
                self.wfile.write(health.body or health.parts())

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def parts(self) -> bytes:
        """Return the body that the frontend would answer."""
        parts = {
            name: {"status": "failing" if name in self.failing else "ok", "detail": self.detail}
            for name in ("decode", "triton", "model", "gpu")
        }
        return json.dumps({"status": "unavailable" if self.failing else "ready", "parts": parts}).encode()


class Part:
    """A supervised process that is restarted at once, under another id."""

    def __init__(self, name: str, pid: int | None) -> None:
        self.name = name
        self.pid = pid
        self.started_s = 0.0
        self.kills = 0
        self.killed = asyncio.Event()

    def kill(self) -> None:
        self.kills += 1
        self.killed.set()
        assert self.pid is not None
        self.pid += 1
        self.started_s = time.monotonic()


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
    watching = watch(
        triton,  # type: ignore[arg-type] # as much of a Supervised as it needs
        frontend,  # type: ignore[arg-type]
        f"{health.url}/health/ready",
        said.append,
        unready_limit_s=unready_limit_s,
        start_limit_s=start_limit_s,
        poll_s=0.05,
    )
    task = asyncio.create_task(watching)
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
    """If the frontend is ready, or fails for less than the limit, nothing is ended."""
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
    """When a part of Triton has failed for the limit, Triton is ended, once."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton) as (frontend, said):
        await _until_it_worked(health)
        health.failing = failing
        await _until_killed(triton)
        await asyncio.sleep(0.6)  # the new one has not worked yet, and is given the time to load
    assert (triton.kills, frontend.kills) == (1, 0)
    assert said[0].startswith("Triton lives but is not ready after")


async def test_a_frontend_that_does_not_answer_is_ended(health: Health) -> None:
    """A frontend that does not say whether it is ready is ended."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton) as (frontend, _):
        await _until_it_worked(health)
        health.is_answering = False
        await _until_killed(frontend)
    assert triton.kills == 0


@pytest.mark.parametrize("failing", [("decode",), ("decode", "gpu")])
async def test_a_frontend_that_does_not_decode_is_ended(health: Health, failing: tuple[str, ...]) -> None:
    """When decoding has failed for the limit, the frontend is ended, because it decodes."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton) as (frontend, said):
        await _until_it_worked(health)
        health.failing = failing
        await _until_killed(frontend)
    assert triton.kills == 0
    assert said[0].startswith("the frontend lives but is not ready after")


async def test_a_ledger_that_is_away(health: Health) -> None:
    """When only the GPU's ledger fails, neither Triton nor the frontend is ended."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton, unready_limit_s=0.1, start_limit_s=0.1) as (frontend, said):
        health.failing = ("gpu",)
        await asyncio.sleep(0.6)
    assert (triton.kills, frontend.kills, said) == (0, 0, [])


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"parts": {"triton": null}}'])
async def test_an_answer_that_names_no_part(health: Health, body: bytes) -> None:
    """A frontend that cannot say which part fails is ended itself, and Triton is not."""
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton) as (frontend, _):
        await _until_it_worked(health)
        health.failing, health.body = ("model",), body
        await _until_killed(frontend)
    assert triton.kills == 0


async def test_culprits_that_take_turns(health: Health) -> None:
    """The time of being unready goes on when another part begins to fail."""
    triton = Part("Triton", 2_000_000_000)
    health.turns = cycle([("model",), ("decode",), ("gpu",)])
    async with _watching(health, triton) as (frontend, said):
        async with asyncio.timeout(60):
            await asyncio.wait(
                {asyncio.create_task(part.killed.wait()) for part in (triton, frontend)},
                return_when=asyncio.FIRST_COMPLETED,
            )
    assert triton.kills + frontend.kills == len(said) >= 1


async def test_the_time_of_a_ledger_that_is_away_does_not_count(health: Health) -> None:
    """After a long time without the ledger, a short trouble of another part ends nothing."""
    triton = Part("Triton", 2_000_000_000)
    health.failing = ("gpu",)
    async with _watching(health, triton, unready_limit_s=2) as (frontend, _):
        await asyncio.sleep(2.5)
        health.failing = ("model",)
        await asyncio.sleep(0.3)
    assert (triton.kills, frontend.kills) == (0, 0)


async def test_a_frontend_that_has_not_looked_yet(health: Health) -> None:
    """What the frontend says about Triton before its first look is not held against Triton.

    If that first look never comes, the frontend is ended.
    """
    triton = Part("Triton", 2_000_000_000)
    health.failing, health.detail = ("triton",), NOTHING_KNOWN
    async with _watching(health, triton) as (frontend, _):
        await _until_killed(frontend)
    assert triton.kills == 0


async def test_the_frontend_says_so_before_its_first_look() -> None:
    """The words by which the watchdog knows this state are the frontend's own."""
    monitor = HealthMonitor(None, None, timeout_s=1)  # type: ignore[arg-type] # asked for nothing yet
    assert monitor.health.triton == NOTHING_KNOWN


async def test_a_model_that_takes_long_to_load(health: Health) -> None:
    """A restarted process has as long as a start may take; after that it is ended, too."""
    health.failing = ("model",)
    triton = Part("Triton", 2_000_000_000)
    async with _watching(health, triton, unready_limit_s=0.1, start_limit_s=4):
        await _until_killed(triton)
        triton.killed.clear()
        await asyncio.sleep(1)
        assert triton.kills == 1
        await _until_killed(triton)


async def test_a_good_state_that_is_older_than_triton(health: Health) -> None:
    """A "ready" right after Triton's restart is about the old Triton.

    The new one may still be loading its model, and has its time.
    """
    triton = Part("Triton", 2_000_000_000)
    triton.started_s = time.monotonic() + 0.2
    async with _watching(health, triton, unready_limit_s=0.1):
        await asyncio.sleep(0.5)  # still ready
        health.failing = ("triton",)
        await asyncio.sleep(0.5)
    assert triton.kills == 0


async def test_a_process_that_is_being_started_again(health: Health) -> None:
    """A process that does not exist at the moment is not ended: its supervisor is at work."""
    triton = Part("Triton", None)
    health.failing = ("triton",)
    async with _watching(health, triton, unready_limit_s=0.1, start_limit_s=0.1):
        await asyncio.sleep(0.5)
    assert triton.kills == 0


@pytest.fixture(params=["triton_python_backend_stub", "bash"])
def children(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """Two children of this process; the first has the name of the stub, or of its shell."""
    stub = tmp_path / str(request.param)
    shutil.copy(shutil.which("sleep") or "sleep", stub)
    found = subprocess.Popen([str(stub), "60"]), subprocess.Popen(["sleep", "60"])
    yield found
    for each in found:
        each.kill()
        each.wait()
    assert dead_stubs(os.getpid()) == set()


async def test_a_dead_stub_ends_its_triton_at_once(
    health: Health, children: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]
) -> None:
    """A child of Triton with the stub's name that stays a zombie is a dead stub.

    Other children are not.
    """
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
