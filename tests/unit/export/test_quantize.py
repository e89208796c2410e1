"""int8: which layers are rounded, and that a score still depends only on its own pair."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from export.quantize import quantize
from export.questions import drawn
from reward import manifest
from reward.runtimes import GRAPH_FILE_NAME
from reward.runtimes.onnxruntime import OnnxRuntime
from tests.small import SMALL

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def version(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network in 8-bit integers."""
    directory = tmp_path_factory.mktemp("int8") / "1"
    shutil.copytree(published_repository / "image_reward_network" / "1", directory)
    quantize(directory, drawn(seed=1))
    return directory


def test_what_reads_the_image_is_rounded_and_nothing_else(version: Path) -> None:
    """Only the layers that read the image are rounded, with weights scaled by column.

    These are four products of each image layer, and keys and values of each cross-attention.
    """
    graph = onnx.load(version / GRAPH_FILE_NAME).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    rounded = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    quantised = [node for node in products if node.input[1] in rounded]
    layers = [node.name.partition("/")[0] for node in quantised]
    expected = [
        f"image_encoder.layers.{layer}.{name}"
        for layer in range(SMALL.image_layers)
        for name in ("query_key_value", "attention_out", "mlp_in", "mlp_out")
    ] + [
        f"text_encoder.layers.{layer}.cross_attention.{name}"
        for layer in range(SMALL.text_layers)
        for name in ("key", "value")
    ]
    assert sorted(layers) == sorted(expected)
    assert len(rounded) - len(quantised) == len({node.input[0] for node in quantised})
    for node in quantised:
        scale = weights[rounded[node.input[1]].input[1]]
        weight = weights[rounded[node.input[1]].input[0]]
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[1]]
    # Only these products read what was rounded: no sum is built on it.
    readers = {node.name for node in graph.node if not rounded.keys().isdisjoint(node.input)}
    assert readers == {node.name for node in quantised}


def test_a_score_is_the_same_in_every_company(version: Path, published_repository: Path) -> None:
    """A score is the same alone, among others and at another place.

    It is equal to the bit, except for fp32's own rounding of prompts.
    """
    content = manifest.read(published_repository / "image_reward_network" / "1")
    runtime = OnnxRuntime(version, content, threads=1)
    asked = drawn()
    tokens, pictures = asked.rows()

    def score(rows: list[int]) -> NDArray[np.float32]:
        inputs = asked.pixels[pictures[rows]], tokens.input_ids[rows], tokens.attention_mask[rows]
        return runtime.score(*inputs)[:, 0]

    one_prompt = list(range(10))
    np.testing.assert_array_equal(score(one_prompt), np.concatenate([score([row]) for row in one_prompt]))
    of_all = list(range(0, 100, 9))
    alone = np.concatenate([score([row]) for row in of_all])
    np.testing.assert_allclose(score(of_all), alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(score(of_all[::-1])[::-1], alone, rtol=0, atol=1e-5)


def test_what_was_logged_before_is_logged_afterwards(version: Path) -> None:
    """Only the quantiser's own log messages are suppressed."""
    assert (version / GRAPH_FILE_NAME).exists()
    assert logging.root.manager.disable == logging.NOTSET
