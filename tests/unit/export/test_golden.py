"""Scores that upstream published tell whether a version is ImageReward-v1.0."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from export.errors import FetchError, ScoresDiffer, UnusableImage
from export.golden import PROMPT, SCORES, Golden, fetch_images, measure
from reward import manifest
from reward.tokenizer import tokenise
from tests.hub import nobody
from tests.pictures import photograph
from tests.repository import copy_published

if TYPE_CHECKING:
    from pathlib import Path

    from reward.runtimes import Runtime


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images under upstream's names."""
    directory = tmp_path / "images"
    directory.mkdir()
    for name, content in zip(SCORES, ("astronaut", "coffee", "chelsea", "rocket"), strict=True):
        (directory / name).write_bytes(photograph(content, "WEBP"))
    return directory


class _Network:
    """A network of a given name that answers with given scores, whatever the pictures are."""

    def __init__(self, name: str, scores: list[float]) -> None:
        self.manifest = manifest.Manifest(name, "", "", "", 20, "", {}, {}, {}, "")
        self._scores = scores

    def score(self, pixels: Any, input_ids: Any, attention_mask: Any) -> Any:
        assert pixels.shape == (4, 3, 224, 224)
        assert (input_ids == tokenise([PROMPT]).input_ids).all()
        assert attention_mask.shape == (4, 35)
        return np.array(self._scores, np.float32)[:, None]


def _network(scores: list[float], name: str = "ImageReward-v1.0") -> Runtime:
    return cast("Runtime", _Network(name, scores))


def test_the_published_scores_pass(images: Path) -> None:
    """Scores pass up to 0.01 from the published ones, which the authors say may differ slightly."""
    moved = [score + 0.0099 for score in SCORES.values()]
    report = measure(_network(moved), images)
    report.check()
    assert report.max_difference == pytest.approx(0.0099, abs=1e-6)
    assert report.table().splitlines() == [
        "image     published     scored  difference",
        "1.webp       0.5812     0.5911     +0.0099",
        "2.webp       0.2745     0.2844     +0.0099",
        "3.webp      -1.4132    -1.4033     +0.0099",
        "4.webp      -2.0296    -2.0197     +0.0099",
    ]


@pytest.mark.parametrize("wrong", [0.011, -0.011, float("nan")])
def test_one_score_apart_is_enough(wrong: float) -> None:
    """A score more than 0.01 off, in either direction, or not a number, is no agreement."""
    with pytest.raises(ScoresDiffer, match=r"this is not ImageReward-v1\.0"):
        Golden(SCORES | {"3.webp": SCORES["3.webp"] + wrong}).check()


def test_weights_of_another_name_are_not_compared(images: Path) -> None:
    """Weights of another name have nothing to be compared with; the message says what to do."""
    with pytest.raises(
        ScoresDiffer, match=r"the version holds 'other', and scores are published for ImageReward-v1\.0"
    ):
        measure(_network(list(SCORES.values()), "other"), images)


def test_the_four_images_have_to_be_there(images: Path) -> None:
    """A missing image is named."""
    (images / "3.webp").unlink()
    with pytest.raises(UnusableImage, match=r"3\.webp: cannot be read"):
        measure(_network(list(SCORES.values())), images)


def test_the_images_are_downloaded_once(images: Path, tmp_path: Path) -> None:
    """The images are downloaded once, from upstream's place.

    Without a way there, the message says what to bring.
    """
    cache = tmp_path / "cache"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(images)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = f"http://127.0.0.1:{server.server_port}"
    assert fetch_images(source, cache) == cache
    server.shutdown()
    server.server_close()
    assert [(cache / name).read_bytes() for name in SCORES] == [
        (images / name).read_bytes() for name in SCORES
    ]
    fetch_images(source, cache)
    with pytest.raises(FetchError, match="bring upstream's assets/images by hand"):
        fetch_images(nobody(), tmp_path / "empty")


def test_the_command_refuses_other_weights(published_repository: Path, images: Path) -> None:
    """A random network is refused by its name, in one line, with exit status 1."""
    done = _verify(published_repository, images)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: the version holds 'small random network', and scores are published for ImageReward-v1.0 alone; "
        "name another version: verify N --golden\n"
    )
    missing = _verify(published_repository, images, "9")
    assert missing.stderr == f"error: version 9 is not published in {published_repository}\n"


def test_the_command_sees_through_a_false_name(
    published_repository: Path, images: Path, tmp_path: Path
) -> None:
    """A random network under the official name is compared, and its wrong scores are shown."""
    repository = tmp_path / "model_repository"
    copy_published(published_repository, repository)
    directory = repository / "image_reward_network" / "1"
    manifest.write(dataclasses.replace(manifest.read(directory), name="ImageReward-v1.0"), directory)
    done = _verify(repository, images)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 5
    assert done.stderr.startswith("error: the scores differ from the published ones by ")


def _verify(repository: Path, images: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export", "--repository", str(repository), "verify", "--golden"]
    return subprocess.run(
        [*command, "--images", str(images), *more], capture_output=True, text=True, check=False
    )


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass
