"""The network -> an ONNX graph with dynamic batch and prompt length, weights beside it.

The keys of the example inputs are the graph's input names, so the contract is written once.
"""

from __future__ import annotations

import ast
import logging
import warnings
from typing import TYPE_CHECKING, Any, Final

import onnx
import torch

from reward.contract import ATTENTION_MASK, INPUT_IDS, MAX_BATCH, MAX_TOKENS, MIN_TOKENS, PIXELS, REWARD
from reward.runtimes import GRAPH_FILE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

OPSET: Final = 20
"""The first opset with a Gelu operator, so that Gelu stays one node of the graph."""


def to_onnx(network: nn.Module, directory: Path) -> Path:
    """Export to `directory`: `network.onnx` and `network.onnx.data`; return the path of the former.

    Batch 1..64 and prompt length 2..35 stay dynamic. PIXELS are uint8 and normalised in the graph.
    """
    path = directory / GRAPH_FILE_NAME
    # The examples have size 2, because the exporter takes a size of 1 for a constant.
    inputs = {
        PIXELS.name: torch.zeros(2, *PIXELS.shape, dtype=torch.uint8),
        INPUT_IDS.name: torch.zeros(2, 7, dtype=torch.int64),
        ATTENTION_MASK.name: torch.ones(2, 7, dtype=torch.int64),
    }
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    tokens = torch.export.Dim("tokens", min=MIN_TOKENS, max=MAX_TOKENS)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's remarks on its own internals
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=[REWARD.name],
            dynamic_shapes=({0: batch}, {0: batch, 1: tokens}, {0: batch, 1: tokens}),
            opset_version=OPSET,
            dynamo=True,
            external_data=True,
            verbose=False,
        )
    _strip(path)
    return path


def _strip(path: Path) -> None:
    """Name each node after its layer, and remove what the exporter writes beside the graph.

    Its intermediate shapes hinder onnxruntime's quantiser. Its stack traces name paths of the
    machine that exported.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    noted: Any
    for node in graph.node:
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES)
        if scopes is not None:  # the modules from the outermost inward, and the operator
            node.name = f"{ast.literal_eval(scopes)[-2]}/{node.name}"
        node.doc_string = ""
    del graph.value_info[:]
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
    onnx.save(model, path)


_SCOPES: Final = "pkg.torch.onnx.name_scopes"
