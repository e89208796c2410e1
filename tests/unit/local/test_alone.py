"""One part alone in a container: this ends when the part ends, or no longer works."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from local.alone import Patience, ScoredPixel, TritonSettings, run_alone, run_triton
from local.errors import LocalError
from local.supervised import Supervised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON: Patience = Patience(start_s=0.0, unready_s=0.0)


def part(command: str, is_ready: Callable[[], bool] = lambda: True) -> Supervised:
    """Make a part that runs a line of shell."""

    async def ready() -> bool:
        await asyncio.sleep(0)
        return is_ready()

    return Supervised("the part", ["bash", "-c", command], {}, None, is_ready=ready)


async def test_it_ends_with_its_part() -> None:
    """When the part ends by itself, the error says how."""
    with pytest.raises(LocalError, match=r"the part ended \(status 7\)"):
        await run_alone(part("exit 7"), Patience())


async def test_a_part_that_does_not_work_is_ended() -> None:
    """A part that lives and does not work is ended after a while."""
    hanging = part("exec sleep 60", lambda: False)
    with pytest.raises(LocalError, match="lives but does not work"):
        await run_alone(hanging, SOON)
    assert hanging.pid is None


async def test_a_part_that_has_lost_something_is_ended_at_once() -> None:
    """A loss that does not heal ends the part, however well it looks."""

    async def has_lost() -> bool:
        await asyncio.sleep(0)
        return True

    with pytest.raises(LocalError, match="has lost one of its processes"):
        await run_alone(part("exec sleep 60"), Patience(), has_lost=has_lost)


async def test_sigterm_ends_the_part_in_order(tmp_path: Path) -> None:
    """SIGTERM is passed on, the part ends by itself, and there is no error."""
    ended, is_set = tmp_path / "ended", tmp_path / "is-set"
    works = asyncio.Event()
    trap = f"trap 'touch {ended}; exit 0' TERM; touch {is_set}; while :; do sleep 0.05; done"
    trapping = part(trap, is_set.exists)
    running = asyncio.create_task(run_alone(trapping, Patience(), on_works=works.set))
    async with asyncio.timeout(60):
        await works.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    assert await asyncio.to_thread(ended.exists)


async def test_triton_needs_its_key(tmp_path: Path, published: Path) -> None:
    """Without the administration key nothing starts, and one line says which file is missing."""
    settings = TritonSettings(published, tmp_path, tmp_path / "no-such-key")
    with pytest.raises(LocalError, match="no-such-key: No such file"):
        await run_triton(settings)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A repository with a version's name in it."""
    version = tmp_path / "repository" / "image_reward_network" / "1"
    version.mkdir(parents=True)
    (version / "manifest.json").write_text("{}")
    return tmp_path / "repository"


async def test_a_pixel_is_scored() -> None:
    """A look sends a picture as a caller would, and reads the status."""
    with triton(200) as (url, bodies):
        assert await ScoredPixel(url, "image_reward")()
    head, _, picture = bodies[0].partition(b"\x89PNG")
    described = json.loads(head[:-4])["inputs"]
    assert [one["name"] for one in described] == ["IMAGE", "PROMPT"]
    assert described[0]["parameters"]["binary_data_size"] == 4 + len(b"\x89PNG" + picture)


async def test_a_refused_pixel_is_no_death_where_others_are_scored() -> None:
    """Under overload Triton refuses the look, and its statistics say that it works."""
    with triton(503) as (url, _):
        look = ScoredPixel(url, "image_reward")
        assert not await look()  # nothing is known from before
        assert await look()


async def test_nobody_there() -> None:
    """Where nothing listens, nothing works."""
    with triton(200) as (url, _):
        pass
    assert not await ScoredPixel(url, "image_reward")()


@contextmanager
def triton(status: int) -> Iterator[tuple[str, list[bytes]]]:
    """Stand in for a Triton that answers every look so, and has scored more at each question."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        scored = 0

        def do_POST(self) -> None:
            assert self.path == "/v2/models/image_reward/infer"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert body[int(self.headers["Inference-Header-Content-Length"]) - 1 :].startswith(b"}")
            bodies.append(body)
            self._answer(status, b"{}")

        def do_GET(self) -> None:
            assert self.path == "/v2/models/image_reward_network/stats"
            type(self).scored += 5
            count = {"inference_stats": {"success": {"count": self.scored}}}
            self._answer(200, json.dumps({"model_stats": [count]}).encode())

        def _answer(self, code: int, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()
