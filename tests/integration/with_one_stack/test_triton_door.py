"""Triton's own API, for callers who send files.

Formats and limits are those of REST, and decoders may die.
"""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from reward.contract import ENSEMBLE, IMAGE, PREPROCESS, PROMPT
from reward.decoding import MAX_BYTES
from reward.preprocess import FORMATS
from tests.decoder_traps import CRASH, set_traps
from tests.integration.stack import RunningStack, processes
from tests.pictures import photograph
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def trapped(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The stack with decoders that crash if an image says so."""
    directory = tmp_path_factory.mktemp("trapped")
    running = RunningStack(published_repository, directory, PYTHONPATH=set_traps(directory))
    running.start()
    try:
        yield running
    finally:
        running.stop()
        assert running.left_over() == []


def _at_both_doors(stack: RunningStack, data: bytes) -> tuple[float | str, float | str]:
    """Score one image by REST and by Triton; return the text of an error in place of a score."""
    with stack.client() as client:
        body = {"prompt": "a cup", "image_base64": base64.b64encode(data).decode()}
        answer = client.post("/score", json=body).json()
    rest = float(answer["raw_score"]) if "raw_score" in answer else str(answer["detail"])
    try:
        return rest, float(stack.score_bytes([data], ["a cup"])[0])
    except InferenceServerException as error:
        status, _, message = f"{error.status()} {error.message()}".partition(" IMAGE[0]: ")
        return rest, message if status.startswith("400") else status


def _encode(image_format: str, width: int, height: int, *, frames: int = 1) -> bytes:
    file = io.BytesIO()
    images = [Image.new("RGB", (width, height), (number, 0, 0)) for number in range(frames)]
    images[0].save(
        file, image_format, **({"save_all": True, "append_images": images[1:]} if frames > 1 else {})
    )
    return file.getvalue()


@pytest.mark.parametrize("image_format", FORMATS)
def test_both_doors_score_the_same_formats(trapped: RunningStack, image_format: str) -> None:
    """For every format, both APIs give the same score to 1e-6."""
    rest, triton = _at_both_doors(trapped, photograph("coffee", image_format))
    assert isinstance(rest, float)
    assert isinstance(triton, float)
    assert abs(rest - triton) <= 1e-6


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: _encode("BMP", 9, 9), "not an image in one of the formats"),
        (lambda: _encode("TIFF", 9, 9), "not an image in one of the formats"),
        (lambda: photograph("coffee")[:5000], "damaged, truncated"),
        (lambda: _encode("PNG", 8000, 7000), "more than the 50000000 pixels allowed"),
        (
            lambda: _encode("GIF", 1000, 1000, frames=51),
            "51 frames of 1000 x 1000; 50000000 pixels are allowed",
        ),
        (lambda: _encode("PNG", 1, 4000), "too narrow"),
        (lambda: bytes(MAX_BYTES + 1), f"more than the {MAX_BYTES} bytes allowed"),
        (lambda: CRASH, "the decoder failed on the image"),
    ],
    ids=["BMP", "TIFF", "truncated", "pixels", "frames", "sliver", "bytes", "crash"],
)
def test_both_doors_refuse_the_same_in_the_same_words(
    trapped: RunningStack, make: Callable[[], bytes], why: str
) -> None:
    """Both APIs refuse the same images in the same words, as the caller's error.

    It is never a server error.
    """
    rest, triton = _at_both_doors(trapped, make())
    assert rest == triton
    assert why in str(triton)


def test_a_crashed_decoder_fails_its_row_alone(trapped: RunningStack) -> None:
    """A crashed decoder fails only its own row, and no process of Triton is restarted."""
    before = _stubs(trapped), trapped.triton_pid()
    good = photograph("coffee")
    expected = float(trapped.score_bytes([good], ["a cup"])[0])

    def attempt(data: bytes) -> tuple[list[float], list[str]]:
        rewards, errors = trapped.ask_ensemble([good, data], ["a cup", "a cup"])
        return rewards.tolist(), errors

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(attempt, [good, CRASH, good] * 8))
    for index, (rewards, errors) in enumerate(answers):
        is_crash = index % 3 == 1
        assert errors == ["", "the decoder failed on the image" if is_crash else ""]
        scores = [expected, float("nan") if is_crash else expected]
        assert rewards == pytest.approx(scores, abs=1e-5, nan_ok=True)
    assert (_stubs(trapped), trapped.triton_pid()) == before


def _stubs(stack: RunningStack) -> set[int]:
    mark = f"{stack.repository}/{PREPROCESS.name}/"
    return {pid for pid, line in processes() if mark in line and "backend_stub" in line}


def test_the_file_for_perf_analyzer_is_what_triton_takes(trapped: RunningStack) -> None:
    """Each entry of bench/perf_analyzer.json has a reward, sent as perf_analyzer sends it.

    Its `b64` is a tensor's raw bytes: of a text or a file, its length in four bytes comes first.
    """
    entries = json.loads((CHECKOUT / "bench" / "perf_analyzer.json").read_text())["data"]
    assert len(entries) == 4
    for entry in entries:
        assert entry.keys() == {spec.name for spec in ENSEMBLE.inputs}
        image, prompt = InferInput(IMAGE.name, [1, 1], "BYTES"), InferInput(PROMPT.name, [1, 1], "BYTES")
        raw = base64.b64decode(entry[IMAGE.name]["b64"], validate=True)
        image.set_data_from_numpy(np.array([[raw[4:]]], dtype=object))
        assert image._get_binary_data() == raw
        prompt.set_data_from_numpy(np.array([entry[PROMPT.name]], dtype=object))
        with InferenceServerClient(trapped.triton_url, network_timeout=60) as client:
            answer = client.infer(ENSEMBLE.name, [image, prompt])
        assert np.isfinite(answer.as_numpy("REWARD")).all()
