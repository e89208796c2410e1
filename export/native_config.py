"""Triton's own backends for the network instead of the Python one: what their configuration says.

Both run a fp16 version's `network.onnx` on the GPU, TensorRT by a plan that is made of it on the
machine that serves (`export.tensorrt_plan`). Nothing of this has run on a GPU here: a test holds
that NVIDIA's protobuf classes accept it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reward.contract import NETWORK
from reward.runtimes import GRAPH_FILE_NAME

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

PLAN_FILE_NAME: Final = "network.plan"
PAIRS_FILE_NAME: Final = "pairs.npz"
"""Inputs, and their scores in fp32, by which whatever is made of the graph is checked."""

MAX_DIFFERENCE: Final = 1e-2
"""How far any score of a fp16 version may be from fp32, whatever runs it."""

NATIVE_BACKENDS: Final = {"onnxruntime": GRAPH_FILE_NAME, "tensorrt": PLAN_FILE_NAME}
"""Backend -> the file of a version that it loads."""

_CUDA_GRAPHS: Final = {1: 1, 8: 2, 16: 9, 32: 17, 64: 33}
"""Batch size of a CUDA graph -> the smallest batch that is filled up to it."""


def make_native(config: ModelConfig, backend: str) -> None:
    """Change the network's configuration from the Python backend to a native one."""
    config.backend = backend
    config.default_model_filename = NATIVE_BACKENDS[backend]
    config.parameters.clear()  # the adapter's
    if backend != "tensorrt":
        return
    cuda = config.optimization.cuda
    cuda.graphs = True
    for batch, smallest in _CUDA_GRAPHS.items():
        graph = cuda.graph_spec.add(batch_size=batch)
        graph.graph_lower_bound.batch_size = smallest
        for spec in NETWORK.inputs:
            graph.input[spec.name].dim.extend(spec.shape)
            graph.graph_lower_bound.input[spec.name].dim.extend(spec.shape)
