"""A published version directory can be loaded and called; a damaged one is named."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from export.quantize import quantize
from export.questions import drawn
from reward import manifest, preprocess, runtimes
from reward.cpus import available_cpus
from reward.errors import VersionError
from reward.runtimes import GRAPH_FILE_NAME
from reward.runtimes.onnxruntime import multiplies_bytes_exactly
from reward.tokenizer import tokenise
from tests.small import small_network
from tests.spoilt import agree, claim_preprocessing, score_nan

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def version(published_repository: Path) -> Path:
    """The version directory of the small network."""
    return published_repository / "image_reward_network" / "1"


@pytest.fixture
def int8(version: Path, tmp_path: Path) -> Path:
    """The same network in 8-bit integers."""
    directory = tmp_path / "int8"
    shutil.copytree(version, directory)
    quantize(directory, drawn(seed=1))
    agree(directory)
    return directory


@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("prompt", ["", "a cat", "word " * 50])
def test_the_graph_computes_what_torch_computes(version: Path, batch: int, prompt: str) -> None:
    """The graph agrees with torch, from 1 image to 64 and from the empty prompt to the longest."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, 224, 224), dtype=np.uint8)
    tokens = tokenise([prompt] * batch)
    ours = runtimes.load(version).score(pixels, tokens.input_ids, tokens.attention_mask)
    inputs = [torch.from_numpy(array) for array in (pixels, tokens.input_ids, tokens.attention_mask)]
    np.testing.assert_allclose(ours, small_network()(*inputs).numpy(), rtol=0, atol=1e-5)
    assert ours.shape == (batch, 1)
    assert ours.dtype == np.float32


def test_a_damaged_version_is_refused(version: Path, tmp_path: Path) -> None:
    """A version with a damage is refused.

    The damages are no manifest or a broken one, one flipped bit in a weight, and a file without a
    graph.
    """
    damaged = tmp_path / "1"
    shutil.copytree(version, damaged)
    weights = bytearray((version / "network.onnx.data").read_bytes())
    weights[len(weights) // 2] ^= 1
    (damaged / "network.onnx.data").write_bytes(weights)
    with pytest.raises(VersionError, match=r"network\.onnx\.data: not the file"):
        runtimes.load(damaged)
    (damaged / "network.onnx.data").unlink()
    with pytest.raises(VersionError, match=r"network\.onnx\.data: cannot be read"):
        runtimes.load(damaged)
    manifest.write(dataclasses.replace(manifest.read(damaged), files={}), damaged)
    (damaged / GRAPH_FILE_NAME).write_bytes(b"no graph")
    with pytest.raises(VersionError, match="cannot be loaded"):
        runtimes.load(damaged)
    for content in ("", "{}", "[]", '{"name": 1}'):
        (damaged / manifest.FILE_NAME).write_text(content)
        with pytest.raises(VersionError, match="not a manifest"):
            runtimes.load(damaged)
    with pytest.raises(VersionError, match="missing"):
        runtimes.load(tmp_path / "2")


def test_a_runtime_that_is_not_there_is_named(version: Path, tmp_path: Path) -> None:
    """A version made for the runtime of another release is refused by that runtime's name."""
    foreign = tmp_path / "1"
    shutil.copytree(version, foreign)
    manifest.write(dataclasses.replace(manifest.read(foreign), runtime="abacus"), foreign)
    with pytest.raises(VersionError, match="made for the runtime 'abacus', which this release lacks"):
        runtimes.load(foreign)


def test_another_preprocessing_is_refused(version: Path, tmp_path: Path) -> None:
    """A version for another preprocessing is refused.

    It would score pixels on which it was never compared, and nobody would notice.
    """
    foreign = tmp_path / "1"
    shutil.copytree(version, foreign)
    claim_preprocessing(foreign, "0123456789abcdef")
    with pytest.raises(
        VersionError,
        match=rf"1: made for the preprocessing 0123456789abcdef, .* {preprocess.digest()} here",
    ):
        runtimes.load(foreign)


def test_a_version_whose_scores_are_no_numbers_is_refused(version: Path, tmp_path: Path) -> None:
    """A version that scores NaN is not loaded, although its files agree with its manifest."""
    broken = tmp_path / "1"
    shutil.copytree(version, broken)
    score_nan(broken)
    with pytest.raises(VersionError, match=r"1: gives a score that is no number"):
        runtimes.load(broken)


@pytest.mark.parametrize(
    ("flags", "exact"),
    [
        ("fpu sse4_1 avx2 avx512f avx512_vnni", True),
        ("fpu avx2 avx_vnni", True),
        ("fpu avx2 fma avx512f avx512bw", False),
        ("", False),
    ],
)
def test_processors_that_saturate_are_known(flags: str, exact: bool) -> None:
    """Only processors with VNNI or AMX add 8-bit products exactly.

    A processor about which nothing is known counts as one that does not.
    """
    assert multiplies_bytes_exactly(f"processor : 0\nflags\t\t: {flags}\n") is exact


def test_int8_scores_do_not_hang_on_the_processor(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy for processors that saturate gives the same scores, to the bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 224, 224), dtype=np.uint8)
    tokens = tokenise(["a cat", "", "word " * 50])
    scores = []
    for exact in (True, False):
        monkeypatch.setattr("reward.runtimes.onnxruntime.multiplies_bytes_exactly", lambda exact=exact: exact)
        if exact and not multiplies_bytes_exactly():
            continue  # as this processor is, its fast products are wrong
        scores.append(runtimes.load(int8).score(pixels, tokens.input_ids, tokens.attention_mask))
    np.testing.assert_array_equal(scores[0], scores[-1])


def test_the_cpu_count_is_at_least_one() -> None:
    """The number of CPUs is at least 1, whatever the cgroup says."""
    assert available_cpus() >= 1
