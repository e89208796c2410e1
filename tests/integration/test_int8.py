"""int8 in the real Triton is served like any other version.

It gives the library's own scores.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from export.publish import Recipe, publish
from export.registry import Registry
from reward import runtimes
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.integration.stack import RunningStack
from tests.pictures import PHOTOGRAPHS, photograph
from tests.repository import copy_repository

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_int8_is_served(published_repository: Path, tmp_path: Path) -> None:
    """REST names the precision, and its scores are the version's: near fp32's, but not equal."""
    registry = Registry(copy_repository(tmp_path / "model_repository"))
    recipe = Recipe(published_repository.parent / "small.safetensors", "small", precision="int8")
    number = publish(registry, recipe, show_progress=False)
    int8 = runtimes.load(registry.directory(number))
    fp32 = runtimes.load(published_repository / "image_reward_network" / "1")
    tokens = tokenise(["a cup"])
    stack = RunningStack(registry.repository, tmp_path)
    stack.start()
    try:
        with stack.client() as client:
            info = client.get("/info").json()
            for name in PHOTOGRAPHS[:3]:
                data = photograph(name)
                body = {"prompt": "a cup", "image_base64": base64.b64encode(data).decode()}
                score = client.post("/score", json=body).json()["raw_score"]
                inputs = prepare(data).pixels[None], tokens.input_ids, tokens.attention_mask
                assert abs(score - int8.score(*inputs)[0, 0]) <= 1e-6
                assert 0 < abs(score - fp32.score(*inputs)[0, 0]) <= 0.05
    finally:
        stack.stop()
    assert info["versions"][0]["precision"] == "int8"
    assert info["versions"][0]["gates"]["passed"] is True
    assert info["versions"][0]["gates"]["summary"].startswith("int8 differs from torch's fp32 by ")
