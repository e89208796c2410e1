"""A version's graph for Triton's native backends (onnxruntime, TensorRT), and pairs to check it by.

Weights and products are fp16; norms, softmax, sums and head are fp32, and every conversion between
the two is a node: the graph is strongly typed, as TensorRT wants it. Natively there is no adapter
between a caller and the network. So the graph itself answers NaN for a row whose tokens are not
valid, and that row spoils no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from export.errors import GateError
from export.native_config import PAIRS_FILE_NAME
from export.to_onnx import to_onnx
from reward.contract import NETWORK, REWARD

if TYPE_CHECKING:
    from pathlib import Path

    from export.questions import Questions
    from reward.network import RewardNetwork
    from reward.runtimes import Runtime

PAIRS: Final = 16


def write_native_graph(network: RewardNetwork, directory: Path) -> None:
    """Export a network of fp16 weights to `directory`: `network.onnx` and `network.onnx.data`."""
    path = to_onnx(_Guarded(network), directory)
    model = onnx.load(path, load_external_data=False)
    _raise_softmax(model.graph)
    onnx.save(model, path)


def write_pairs(network: RewardNetwork, questions: Questions, directory: Path) -> None:
    """Write `pairs.npz`: inputs from everywhere in the questions, and their scores by this network.

    The names in it are the tensors' names. Whoever builds something of the graph compares with it.
    """
    tokens, pictures = questions.rows()
    rows = np.unique(np.linspace(0, len(pictures) - 1, PAIRS).astype(np.int64))
    inputs = questions.pixels[pictures[rows]], tokens.input_ids[rows], tokens.attention_mask[rows]
    with torch.inference_mode():
        rewards = network(*map(torch.from_numpy, inputs)).numpy()
    names = (*(spec.name for spec in NETWORK.inputs), REWARD.name)
    np.savez_compressed(directory / PAIRS_FILE_NAME, **dict(zip(names, (*inputs, rewards), strict=True)))


def check_native_graph(runtime: Runtime, directory: Path, *, max_difference: float) -> float:
    """Score the pairs with the graph; return the largest difference from what they should score.

    Raises:
        GateError: a difference is larger than allowed.
    """
    with np.load(directory / PAIRS_FILE_NAME) as pairs:
        rewards = runtime.score(*(pairs[spec.name] for spec in NETWORK.inputs))
        difference = float(np.abs(rewards - pairs[REWARD.name]).max())
    if not difference <= max_difference:
        raise GateError(
            f"nothing was published: the graph for native backends differs from torch's fp32 by {difference:.2g}, "
            f"at most {max_difference:g} is allowed"
        )
    return difference


class _Guarded(nn.Module):
    """The network, for tensors that nobody has checked."""

    def __init__(self, network: RewardNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Score a batch; a row that the contract does not allow scores NaN."""
        last = self.network.dimensions.vocabulary_size - 1
        known = input_ids.clamp(0, last)
        mask = attention_mask.clamp(0, 1)
        is_valid = ((input_ids == known) & (attention_mask == mask)).all(dim=1) & (mask.amax(dim=1) == 1)
        is_valid = is_valid[:, None]  # (B, 1)
        rewards = self.network(pixels, known, torch.where(is_valid, mask, 1))
        return torch.where(is_valid, rewards, torch.nan)


def _raise_softmax(graph: Any) -> None:  # noqa: ANN401 - onnx has no types
    """Have each softmax computed in fp32: the exporter leaves it in the precision of its input."""
    nodes = []
    for node in graph.node:
        if node.op_type != "Softmax":
            nodes.append(node)
            continue
        half, (output,) = node.input[0], node.output
        node.input[0], node.output[0] = f"{output}_fp32_in", f"{output}_fp32"
        nodes += [
            helper.make_node("Cast", [half], [node.input[0]], f"{node.name}_raise", to=TensorProto.FLOAT),
            node,
            helper.make_node(
                "Cast", [node.output[0]], [output], f"{node.name}_round", to=TensorProto.FLOAT16
            ),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
