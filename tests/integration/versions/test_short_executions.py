"""On a CPU one execution has few rows if the version is slow, at every door of the real Triton."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from reward import runtimes
from reward.contract import ENSEMBLE, IMAGE, NETWORK, PROMPT
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.integration.versions import flawed
from tests.integration.versions.serving import Serving, under_load
from tests.pictures import PHOTOGRAPHS, photograph

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW_S = 1.0
"""Seconds an image, as the manifest of the slow version has it: four fit."""


def test_what_fits_is_rendered_and_told(serving: Serving) -> None:
    """A version of a second an image takes four rows, and Triton's refusal of five says so.

    While it takes the place of a quick one, and while it gives its place back, nobody's request
    fails. REST has ten candidates scored by it, in parts.
    """
    number = flawed.publish_copy(serving.registry, 1, seconds_per_image=SLOW_S)
    serving.start_frontend()
    deployer = serving.deployer()
    assert _largest(serving) == {NETWORK.name: 64, ENSEMBLE.name: 64}
    with under_load(serving, [1, number], rest=True) as load:
        deployer.promote(number)
        assert _largest(serving) == {NETWORK.name: 4, ENSEMBLE.name: 4}
        assert _refusal(serving, NETWORK.name, 5) == "400: batch-size must be <= 4 for 'image_reward_network'"
        assert _refusal(serving, ENSEMBLE.name, 5) == "400: batch-size must be <= 4 for 'image_reward'"
        assert _refusal(serving, NETWORK.name, 4) is None
        assert _refusal(serving, ENSEMBLE.name, 4) is None
        _check_ten_candidates(serving, number)
        deployer.rollback()
    assert load.failures == []
    assert _largest(serving) == {NETWORK.name: 64, ENSEMBLE.name: 64}


def _largest(serving: Serving) -> dict[str, int]:
    with serving.http() as client:
        return {
            name: client.get_model_config(name)["max_batch_size"] for name in (NETWORK.name, ENSEMBLE.name)
        }


def _refusal(serving: Serving, model: str, rows: int) -> str | None:
    inputs = []
    for name, values in _tensors(model, rows):
        kind = "BYTES" if values.dtype == object else values.dtype.name.upper()
        tensor = tritonclient.http.InferInput(name, list(values.shape), kind)
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    with serving.http() as client:
        try:
            client.infer(model, inputs)
        except InferenceServerException as error:
            return f"{error.status()}: {str(error.message()).partition('inference request ')[2]}"
    return None


def _tensors(model: str, rows: int) -> Iterator[tuple[str, Any]]:
    if model == ENSEMBLE.name:
        yield IMAGE.name, np.array([[photograph("coffee")]] * rows, dtype=object)
        yield PROMPT.name, np.array([[b"a cup"]] * rows, dtype=object)
        return
    tokens = tokenise(["a cup"] * rows)
    arrays = np.zeros((rows, 3, 224, 224), np.uint8), tokens.input_ids, tokens.attention_mask
    yield from zip([spec.name for spec in NETWORK.inputs], arrays, strict=True)


def _check_ten_candidates(serving: Serving, number: int) -> None:
    pictures = [photograph(name) for name in PHOTOGRAPHS]
    candidates = [{"image_base64": base64.b64encode(data).decode()} for data in pictures]
    answer = httpx.post(
        f"{serving.frontend.url}/score-batch",
        json={"prompt": "a cup", "candidates": candidates},
        timeout=60,
    ).json()
    scores = {result["index"]: result["raw_score"] for result in answer["results"]}
    tokens = tokenise(["a cup"] * len(pictures))
    pixels = np.stack([prepare(data).pixels for data in pictures])
    runtime = runtimes.load(serving.registry.directory(number), threads=1)
    expected = runtime.score(pixels, tokens.input_ids, tokens.attention_mask)[:, 0]
    assert [scores[index] for index in range(len(pictures))] == pytest.approx(expected.tolist(), abs=1e-5)
