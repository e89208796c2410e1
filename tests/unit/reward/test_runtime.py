"""A published version directory is a callable, and a damaged one says so."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from reward import manifest, runtime
from reward.errors import InvalidTensor, VersionError
from reward.tokenise import tokenise
from tests.small import small_network

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def version(published_repository: Path) -> Path:
    """The small network's version directory."""
    return published_repository / "image_reward_network" / "1"


@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("prompt", ["", "a cat", "word " * 50])
def test_the_graph_computes_what_torch_computes(version: Path, batch: int, prompt: str) -> None:
    """From one image to 64, from the empty prompt to the longest."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, 224, 224), dtype=np.uint8)
    tokens = tokenise([prompt] * batch)
    ours = runtime.load(version).score(pixels, tokens.input_ids, tokens.attention_mask)
    inputs = [torch.from_numpy(array) for array in (pixels, tokens.input_ids, tokens.attention_mask)]
    np.testing.assert_allclose(ours, small_network()(*inputs).numpy(), rtol=0, atol=1e-5)
    assert ours.shape == (batch, 1)
    assert ours.dtype == np.float32


def test_tensors_out_of_contract_are_refused(version: Path) -> None:
    """Ids outside the vocabulary and masks of nothing, or of other numbers, are refused before the batch."""
    loaded = runtime.load(version)
    tokens = tokenise(["a cat"])
    loaded.check(tokens.input_ids, tokens.attention_mask)
    for ids, mask in (
        (tokens.input_ids - 1, tokens.attention_mask),
        (tokens.input_ids + 30_524, tokens.attention_mask),
        (tokens.input_ids, tokens.attention_mask * 0),
        (tokens.input_ids, tokens.attention_mask * 2),
    ):
        with pytest.raises(InvalidTensor):
            loaded.check(ids, mask)


def test_a_damaged_version_is_refused(version: Path, tmp_path: Path) -> None:
    """Without a manifest, with a broken one, with one bit of a weight flipped, or with no graph in the file."""
    damaged = tmp_path / "1"
    shutil.copytree(version, damaged)
    weights = bytearray((version / "network.onnx.data").read_bytes())
    weights[len(weights) // 2] ^= 1
    (damaged / "network.onnx.data").write_bytes(weights)
    with pytest.raises(VersionError, match=r"network\.onnx\.data: damaged"):
        runtime.load(damaged)
    (damaged / "network.onnx.data").unlink()
    with pytest.raises(VersionError, match=r"network\.onnx\.data: cannot be read"):
        runtime.load(damaged)
    manifest.write(dataclasses.replace(manifest.read(damaged), files={}), damaged)
    (damaged / runtime.GRAPH_FILE_NAME).write_bytes(b"no graph")
    with pytest.raises(VersionError, match="cannot be loaded"):
        runtime.load(damaged)
    for content in ("", "{}", "[]", '{"name": 1}'):
        (damaged / manifest.FILE_NAME).write_text(content)
        with pytest.raises(VersionError, match="not a manifest"):
            runtime.load(damaged)
    with pytest.raises(VersionError, match="missing"):
        runtime.load(tmp_path / "2")


def test_the_cpu_count_is_at_least_one() -> None:
    """Whatever the cgroup says."""
    assert runtime.available_cpus() >= 1
