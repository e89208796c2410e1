"""The package's surface, its images, and what it needs to be installed."""

from __future__ import annotations

import base64
import io
import os
import pickle
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest
from PIL import Image

import imajin_aesthetic_client
from imajin_aesthetic_client import (
    AestheticClient,
    AestheticError,
    AsyncAestheticClient,
    DeadlineExceeded,
    ImageLike,
    Retries,
    errors,
)
from imajin_aesthetic_client.images import file_bytes, source
from imajin_aesthetic_client.triton import RowsFailed, Scores
from imajin_aesthetic_client.version import VERSION
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_the_surface_is_what_all_names() -> None:
    """Whatever is public in the package stands in `__all__`, sorted."""
    modules = {
        name for name, value in vars(imajin_aesthetic_client).items() if type(value).__name__ == "module"
    }
    public = {name for name in vars(imajin_aesthetic_client) if not name.startswith("_")}
    assert sorted(public - modules) == imajin_aesthetic_client.__all__


def test_the_tree_of_errors_is_the_one_drawn() -> None:
    """Every class of the tree is in the docstring with its code, and every code has a class."""
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.strip("│├└─ ").split()
        if line[:1] in ("│", "├", "└") and len(words) > 1:
            drawn[words[1]] = words[0]
    assert drawn == {code: kind.__name__ for code, kind in errors.CODES.items()}
    classes = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    assert all(issubclass(kind, AestheticError) for kind in classes - {type(errors)})


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_pillow_image_is_sent_without_loss(mode: str) -> None:
    """As PNG, in its own mode."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image = Image.fromarray(noise).convert("RGBA").convert(mode) if mode != "P" else _palette(noise)
    sent = Image.open(io.BytesIO(file_bytes(image)))
    assert (sent.format, sent.mode, sent.size) == ("PNG", mode, (30, 20))
    np.testing.assert_array_equal(np.asarray(sent), np.asarray(image))


def test_a_mode_that_png_lacks_becomes_rgb() -> None:
    """CMYK."""
    assert Image.open(io.BytesIO(file_bytes(Image.new("CMYK", (3, 3))))).mode == "RGB"


def test_sources(tmp_path: Path) -> None:
    """Addresses go as they are, files as base64; anything else is refused by its type."""
    path = tmp_path / "1.png"
    path.write_bytes(b"abc")
    encoded = {"image_base64": base64.b64encode(b"abc").decode()}
    files: list[ImageLike] = [path, str(path), b"abc", bytearray(b"abc"), memoryview(b"abc")]
    assert [source(image) for image in files] == [encoded] * 5
    assert source("HTTPS://example.com/1.png") == {"image_url": "HTTPS://example.com/1.png"}
    assert source("data:,x") == {"image_base64": "data:,x"}
    with pytest.raises(TypeError, match="ndarray"):
        source(np.zeros((3, 3)))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        source("missing.png")


def test_a_key_that_no_header_can_hold_is_not_repeated() -> None:
    """Neither in the error, nor in the client's text."""
    with pytest.raises(ValueError, match="api_key") as refused:
        AestheticClient(api_key="sesame\n")
    assert "sesame" not in str(refused.value)
    with AestheticClient(api_key="sesame") as client:
        assert "sesame" not in repr(client) + repr(client.connection)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8006", "ftp://host", "http://", "http://host/?x=1", "http://user:pw@host"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """At once, not with the first call."""
    with pytest.raises(ValueError, match="base_url"):
        AestheticClient(url)


class _Trickle(BaseHTTPRequestHandler):
    """Answers a byte at a time, for longer than anybody waits."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        try:
            while not self.server.is_over.wait(0.02):  # type: ignore[attr-defined]
                self.wfile.write(b" ")
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def trickle() -> Iterator[str]:
    """A server whose answers do not end."""
    server = HTTPServer(("127.0.0.1", 0), _Trickle)
    server.is_over = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.is_over.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_that_trickles_does_not_outlast_the_deadline(trickle: str) -> None:
    """The whole call is timed, not each read; it would take twenty seconds."""
    with AestheticClient(trickle, timeout_s=0.3) as client, pytest.raises(DeadlineExceeded):
        client.info()


async def test_an_awaited_answer_that_trickles_does_not_either(trickle: str) -> None:
    """The same for the async client."""
    async with AsyncAestheticClient(trickle, timeout_s=0.3) as client:
        with pytest.raises(DeadlineExceeded):
            await client.info()


def test_a_cancelled_call_ends_at_once(trickle: str) -> None:
    """By anyio's cancel scopes; nothing is left that waits for the answer."""

    async def main() -> bool:
        async with AsyncAestheticClient(trickle, timeout_s=60) as client:
            with anyio.move_on_after(0.2) as scope:
                await client.info()
        return scope.cancelled_caught

    assert anyio.run(main)


def test_errors_travel_between_processes() -> None:
    """With everything that they tell, as a trainer's workers need it."""
    error = errors.Overloaded("too many", status=429, retryable=True, retry_after_s=2.0)
    rows = RowsFailed(Scores(np.array([1.0, np.nan], np.float32), {1: error}))
    for sent in (error, rows):
        received = pickle.loads(pickle.dumps(sent))
        assert (type(received), str(received)) == (type(sent), str(sent))
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)
    assert str(rows) == "overloaded: 1 of 2 rows failed; row 1: too many"


def test_waits_stay_within_their_bounds() -> None:
    """Half to whole of the doubled wait, and never fewer than Retry-After."""
    retries = Retries(first_wait_s=1, max_wait_s=5)
    assert [retries.wait_s(attempt, None, 0) for attempt in (1, 2, 3, 4)] == [0.5, 1, 2, 2.5]
    assert [retries.wait_s(attempt, 10, 1) for attempt in (1, 2, 3, 4)] == [11, 12, 14, 15]
    with pytest.raises(ValueError, match="max_attempts"):
        Retries(max_attempts=0)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the package's wheel and what it asks for."""
    directory = tmp_path_factory.mktemp("installed")
    project = shutil.copytree(CHECKOUT / "clients/python", directory / "project")
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    _run(sys.executable, "-c", build, str(directory), cwd=project)
    uv = shutil.which("uv") or str(CHECKOUT / ".tools/bin/uv")
    _run(uv, "venv", "--python", sys.executable, str(directory / "venv"))
    wheel = str(next(directory.glob("*.whl")))
    _run(uv, "pip", "install", "--python", str(directory / "venv"), wheel)
    return directory / "venv"


def test_it_is_installed_alone(installed: Path) -> None:
    """It needs httpx and what that needs; no Pillow, no NumPy, no service. It has its command."""
    names = {path.name.partition("-")[0] for path in installed.glob("lib/*/site-packages/*.dist-info")}
    assert names <= {
        *("imajin_aesthetic_client", "httpx", "httpcore", "anyio", "h11", "idna", "certifi"),
        *("sniffio", "typing_extensions"),
    }
    _run(str(installed / "bin/python"), "-c", "import imajin_aesthetic_client.imagereward")
    assert _run(str(installed / "bin/aesthetic"), "--version") == f"{VERSION}\n"


def test_a_strangers_code_type_checks_under_strict(installed: Path, tmp_path: Path) -> None:
    """Against the installed package, whose types count (py.typed)."""
    python = str(installed / "bin/python")
    options = ("--strict", "--python-executable", python, "--cache-dir", str(tmp_path / "cache"))
    consumer = shutil.copy(CHECKOUT / "tests/clients/python/consumer/use.py", tmp_path)
    said = _run(sys.executable, "-m", "mypy", "--config-file=", *options, str(consumer), cwd=tmp_path)
    assert said == "Success: no issues found in 1 source file\n"


def _run(*command: str, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def _palette(noise: Any) -> Image.Image:
    return Image.fromarray(noise).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
