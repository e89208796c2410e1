"""The graph for native backends: strongly typed, near fp32, safe against unchecked rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.errors import GateError
from export.native_graph import PAIRS, check_native_graph
from reward.runtimes import GRAPH_FILE_NAME
from reward.runtimes.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from pathlib import Path

    from reward.manifest import Manifest

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def _runtime(directory: Path) -> OnnxRuntime:
    return OnnxRuntime(directory, cast("Manifest", None), 0)


def test_every_conversion_is_a_node(native_version: Path) -> None:
    """By strict inference of types, products are half, and norms, softmax and head are fp32.

    TensorRT builds such a graph as it stands: it has no flags for precision any more.
    """
    model = onnx.load(native_version / GRAPH_FILE_NAME)
    inferred = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    ).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        types[value.name] = value.type.tensor_type.elem_type
    found: dict[str, set[Any]] = {}
    for node in inferred.node:
        found.setdefault(node.op_type, set()).update(types.get(name) for name in (*node.input, *node.output))
    assert found["MatMul"] == found["Conv"] == {HALF}
    assert found["LayerNormalization"] == found["Softmax"] == found["Gemm"] == {FLOAT}
    assert types["REWARD"] == FLOAT


def test_the_pairs_hold_the_graph(native_version: Path) -> None:
    """The pairs have the scores of fp32, to which the graph is near, but not equal."""
    with np.load(native_version / "pairs.npz") as pairs:
        assert {name: pairs[name].shape for name in pairs} == {
            "PIXELS": (PAIRS, 3, 224, 224),
            "INPUT_IDS": (PAIRS, 35),
            "ATTENTION_MASK": (PAIRS, 35),
            "REWARD": (PAIRS, 1),
        }
    difference = check_native_graph(_runtime(native_version), native_version, max_difference=1e-2)
    assert 1e-5 < difference < 1e-2
    with pytest.raises(GateError, match="the graph for native backends differs from torch's fp32 by"):
        check_native_graph(_runtime(native_version), native_version, max_difference=1e-5)


def test_a_row_that_nobody_checked_is_no_number_and_spoils_no_other(native_version: Path) -> None:
    """Unknown ids and masks that are none score NaN; the rows beside score as ever."""
    with np.load(native_version / "pairs.npz") as pairs:
        pixels, input_ids, mask = (pairs[name][:6] for name in ("PIXELS", "INPUT_IDS", "ATTENTION_MASK"))
    runtime = _runtime(native_version)
    good = runtime.score(pixels, input_ids, mask)
    assert np.isfinite(good).all()
    input_ids[1, 1] = -1
    input_ids[2, 1] = 2**40
    mask[3] = 0
    mask[4, 0] = 2
    scores = runtime.score(pixels, input_ids, mask)
    assert np.isnan(scores[1:5]).all()
    np.testing.assert_allclose(scores[[0, 5]], good[[0, 5]], rtol=0, atol=1e-3)
