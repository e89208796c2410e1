"""Upstream's interface beside upstream itself: the same arguments, the same return values."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from imajin_aesthetic_client import imagereward
from reward.contract import PIXEL_MEAN, PIXEL_STD
from reward.preprocess import prepare
from tests.clients.python.scripted import VECTORS
from tests.parity.pictures import write_pictures
from tests.parity.reference import UPSTREAM

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT = "a painting of an ocean"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of many kinds, more of them than one request may have."""
    return [str(path) for path in write_pictures(tmp_path_factory.mktemp("pictures")).values()]


@pytest.fixture(scope="module")
def upstream(pictures: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What upstream's own code answers about them."""
    directory = tmp_path_factory.mktemp("upstream")
    (directory / "job.json").write_text(json.dumps({"prompt": PROMPT, "paths": pictures}))
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("upstream_semantics.py")), str(directory)],
        env={**os.environ, "PYTHONPATH": str(UPSTREAM)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return json.loads((directory / "answers.json").read_text())


@pytest.fixture
def model() -> Iterator[imagereward.ImageReward]:
    """The interface over a service that measures brightness, as upstream does in these tests."""
    model = imagereward.load("ImageReward-v1.0", transport=httpx.MockTransport(_serve))
    yield model
    model.close()


def test_return_values_are_upstreams(
    model: imagereward.ImageReward, pictures: list[str], upstream: Any
) -> None:
    """Floats, lists and ranks for one path, one image, lists, tuples and lists of one."""
    theirs = upstream["answers"]
    images = [_opened(path) for path in pictures]
    ours: dict[str, Any] = {
        "path": model.score(PROMPT, pictures[0]),
        "image": model.score(PROMPT, images[0]),
        "list": model.score(PROMPT, pictures),
        "list of one": model.score(PROMPT, pictures[:1]),
        "rank": model.inference_rank(PROMPT, pictures),
        "rank of images": model.inference_rank(PROMPT, images),
        "rank of a tuple": model.inference_rank(PROMPT, tuple(pictures)),
        "rank of one": model.inference_rank(PROMPT, pictures[:1]),
        "prompt in a list": model.inference_rank([PROMPT], pictures),
    }
    assert ours.keys() == theirs.keys()
    for name, answer in ours.items():
        assert _shape(answer) == _shape(theirs[name]), name
        # A Pillow image in CMYK is converted before it is resized, which the docstring says.
        tolerance = 0.02 if name == "rank of images" else 1e-4
        np.testing.assert_allclose(_rewards(answer), _rewards(theirs[name]), atol=tolerance, err_msg=name)
        if isinstance(answer, tuple):
            _assert_ranks(answer, name)
            _assert_ranks(theirs[name], name)


def test_what_is_no_image_is_a_type_error(
    model: imagereward.ImageReward, pictures: list[str], upstream: Any
) -> None:
    """A number, bytes and a tuple fail for `score` as upstream fails."""
    assert upstream["failures"] == dict.fromkeys(("a number", "bytes", "a tuple"), "TypeError")
    for image in (7, b"x", (pictures[0],)):
        with pytest.raises(TypeError, match="not been supported"):
            model.score(PROMPT, image)  # type: ignore[arg-type]


def test_upstreams_defects_are_not_copied(model: imagereward.ImageReward, pictures: list[str]) -> None:
    """A missing file, an empty list and a list of prompts are errors that say so."""
    with pytest.raises(FileNotFoundError):
        model.inference_rank(PROMPT, [pictures[0], "missing.png"])
    with pytest.raises(ValueError, match="no images"):
        model.inference_rank(PROMPT, [])
    with pytest.raises(TypeError, match="one prompt"):
        model.inference_rank([PROMPT, "another"], pictures)


def test_equal_rewards_keep_the_order_of_their_images(
    model: imagereward.ImageReward, pictures: list[str]
) -> None:
    """Ranks are 1 to N, each once, as upstream's are."""
    assert model.inference_rank(PROMPT, [pictures[0]] * 3)[0] == [1, 2, 3]


def _opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def _serve(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/info":
        return httpx.Response(200, json=VECTORS["bodies"]["info"])
    body = json.loads(request.content)
    if "candidates" not in body:
        return httpx.Response(200, json={**VECTORS["bodies"]["score"], "raw_score": _brightness(body)})
    template = VECTORS["bodies"]["batch"]
    assert len(body["candidates"]) <= VECTORS["bodies"]["info"]["limits"]["max_candidates"]
    results = [
        {**template["best_candidate"], "index": index, "raw_score": _brightness(candidate)}
        for index, candidate in enumerate(body["candidates"])
    ]
    results.sort(key=lambda result: -result["raw_score"])
    return httpx.Response(
        200, json={**template, "failed": [], "best_candidate": results[0], "results": results}
    )


def _brightness(source: dict[str, str]) -> float:
    pixels = prepare(base64.b64decode(source["image_base64"])).pixels
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return float(((pixels.astype(np.float32) / np.float32(255) - mean) / std).mean())


def _shape(answer: Any) -> Any:
    """Describe types and lengths; JSON made lists of upstream's tuples."""
    if isinstance(answer, (list, tuple)):
        return [_shape(item) for item in answer]
    return type(answer).__name__


def _rewards(answer: Any) -> Any:
    is_ranking = isinstance(answer, (list, tuple)) and len(answer) == 2 and not isinstance(answer[0], float)
    return answer[1] if is_ranking else answer


def _assert_ranks(answer: Any, name: str) -> None:
    """Rank 1 has the highest reward, and so on."""
    ranks, rewards = (np.atleast_1d(part) for part in answer)
    assert sorted(ranks) == list(range(1, len(ranks) + 1)), name
    assert (np.diff(rewards[np.argsort(ranks)]) <= 0).all(), name
