"""The package's surface, its images, and what it needs to be installed."""

from __future__ import annotations

import base64
import io
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
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
    error = errors.error_of("overloaded", "too many", status=429, retryable=True, retry_after_s=2.0)
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


def test_it_is_installed_alone(tmp_path: Path) -> None:
    """The wheel has the package, its marker of types and its command.

    It can be imported without Pillow and without Triton.
    """
    project = shutil.copytree(CHECKOUT / "clients/python", tmp_path / "project")
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=project, check=True, stdout=subprocess.DEVNULL
    )
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "imajin_aesthetic_client/py.typed" in names
    assert any(name.endswith("/entry_points.txt") for name in names)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import imajin_aesthetic_client as client;"
        "import imajin_aesthetic_client.imagereward; assert client.__file__.startswith(sys.argv[1]);"
        "print([name for name in ('PIL', 'numpy', 'tritonclient', 'pydantic', 'reward', 'frontend') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(wheel)], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def _palette(noise: Any) -> Image.Image:
    return Image.fromarray(noise).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
