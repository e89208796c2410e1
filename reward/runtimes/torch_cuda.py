"""Versions that torch runs on an NVIDIA GPU, in fp16, bf16 or fp32.

A batch is filled up to the next of `BATCH_SIZES`, its prompts are cut to the next of
`PROMPT_LENGTHS`, and for each pair of the two the network's kernels are recorded once, when the
version is loaded, as one CUDA graph. An execution is then one copy to the GPU, one launch and one
copy back. Rows that fill a batch up are answered and thrown away: no row sees another one.

`device="cpu"` runs the same code without graphs. Tests need it, and so does publishing where there
is no GPU; it is far slower than onnxruntime.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reward import checkpoint
from reward.contract import MAX_BATCH, MAX_TOKENS, PIXELS
from reward.errors import CheckpointError, VersionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from reward.manifest import Manifest

WEIGHTS_FILE_NAME: Final = "weights.safetensors"

DTYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, MAX_BATCH)
PROMPT_LENGTHS: Final = (16, 24, MAX_TOKENS)
"""The prompt is a twentieth of the work: finer steps would save little. For 8 tokens, torch's
attention in half precision rounds otherwise than for 16 and more, so that a score would depend on
the longest prompt beside it.
"""


class TorchRuntime:
    """A `reward.runtimes.Runtime`.

    Args:
        directory: of the version.
        manifest: of the version.
        device: `cuda:0`, or `cpu` to run the same without graphs.
        compiled: fuse the kernels of each layer with Inductor first, which takes a minute, a C
            compiler and Triton's language.

    Raises:
        VersionError: no GPU that this torch can use, too little memory, or no weights.
    """

    def __init__(self, directory: Path, manifest: Manifest, device: str, *, compiled: bool = False) -> None:
        self.manifest = manifest
        self.device = torch.device(device)
        self._is_cuda = self.device.type == "cuda"
        self.ran_on = _check_gpu(self.device, directory) if self._is_cuda else "CPU"
        try:
            self._load(directory, compiled=compiled)
        except CheckpointError as error:
            raise VersionError(str(error)) from error
        except torch.OutOfMemoryError as error:
            free, total = (size // 2**20 for size in torch.cuda.mem_get_info(self.device))
            raise VersionError(
                f"{directory}: too little GPU memory: {free} of {total} MiB are free"
            ) from error
        except RuntimeError as error:  # how torch tells what CUDA says
            raise VersionError(f"{directory}: {self.device}: {_first_line(error)}") from error

    def score(
        self, pixels: NDArray[np.uint8], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score a batch: (B, 3, 224, 224), (B, 35), (B, 35) -> (B, 1)."""
        rows = len(pixels)
        longest = MAX_TOKENS - int(np.argmax(attention_mask.any(axis=0)[::-1]))
        shape = _Shape(_at_least(rows, BATCH_SIZES), _at_least(longest, PROMPT_LENGTHS))
        staged = _Inputs(*(tensor.numpy() for tensor in shape.inputs(self._staged)))
        staged.input_ids[:rows] = input_ids[:, : shape.tokens]
        staged.input_ids[rows:] = 0  # earlier batches had other things at this place
        staged.attention_mask[:rows] = attention_mask[:, : shape.tokens]
        staged.attention_mask[rows:] = 1
        staged.pixels[:rows] = pixels
        with torch.inference_mode():
            self._buffer[: shape.nbytes].copy_(self._staged[: shape.nbytes], non_blocking=True)
            self._executions[shape]()
            self._answers.copy_(self._rewards, non_blocking=True)
        if self._is_cuda:
            torch.cuda.current_stream().synchronize()
        rewards: NDArray[np.float32] = self._answers[:rows].numpy().copy()
        return rewards

    def _load(self, directory: Path, *, compiled: bool) -> None:
        _compute_exactly()
        network = checkpoint.load(directory / WEIGHTS_FILE_NAME)
        self._network = network.to_precision(DTYPES[self.manifest.precision]).to(self.device)
        if compiled:
            for layer in (*self._network.image_encoder.layers, *self._network.text_encoder.layers):
                layer.compile(dynamic=True)
        largest = _Shape(MAX_BATCH, MAX_TOKENS).nbytes
        self._staged = torch.zeros(largest, dtype=torch.uint8, pin_memory=self._is_cuda)
        self._buffer = torch.zeros(largest, dtype=torch.uint8, device=self.device)
        self._rewards = torch.zeros(MAX_BATCH, 1, device=self.device)
        self._answers = torch.zeros(MAX_BATCH, 1, pin_memory=self._is_cuda)
        # The largest first: the others then fit into the memory that it has taken.
        shapes = [_Shape(batch, tokens) for batch in BATCH_SIZES[::-1] for tokens in PROMPT_LENGTHS[::-1]]
        executions: dict[_Shape, Callable[[], object]] = {
            shape: partial(self._execute, shape) for shape in shapes
        }
        self._executions = self._record(executions) if self._is_cuda else executions

    def _execute(self, shape: _Shape) -> None:
        self._rewards[: shape.rows].copy_(self._network(*shape.inputs(self._buffer)))

    def _record(self, executions: dict[_Shape, Callable[[], object]]) -> dict[_Shape, Callable[[], object]]:
        """Record each execution as a CUDA graph; all graphs share one pool of memory.

        They may: no two of them run at the same time, and what they give is copied out at once.
        Triton's Python backend calls `initialize` and `execute` in one thread, this one.
        """
        recorded: dict[_Shape, Callable[[], object]] = {}
        with torch.inference_mode():
            pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            for shape, execute in executions.items():
                with torch.cuda.stream(stream):
                    execute()  # libraries choose their kernels, and Inductor compiles
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=stream):
                    execute()
                recorded[shape] = graph.replay
            torch.cuda.empty_cache()
        return recorded


class _Inputs(NamedTuple):
    """The network's inputs, as tensors or arrays that share the memory of one buffer."""

    pixels: Any
    input_ids: Any
    attention_mask: Any


class _Shape(NamedTuple):
    """The size of one execution, and how its inputs lie in a buffer of bytes, one after another."""

    rows: int
    tokens: int

    @property
    def nbytes(self) -> int:
        return self.rows * (2 * 8 * self.tokens + _PIXEL_BYTES)

    def inputs(self, buffer: Tensor) -> _Inputs:
        words = 8 * self.rows * self.tokens
        input_ids, attention_mask = (
            buffer[start : start + words].view(torch.int64).view(self.rows, self.tokens)
            for start in (0, words)
        )
        pixels = buffer[2 * words : self.nbytes].view(self.rows, *PIXELS.shape)
        return _Inputs(pixels, input_ids, attention_mask)


_PIXEL_BYTES: Final = int(np.prod(PIXELS.shape))


def _at_least(size: int, sizes: tuple[int, ...]) -> int:
    return next(one for one in sizes if one >= size)


def _compute_exactly() -> None:
    """Have fp32 mean fp32, and sums of half products kept in fp32: torch's defaults are faster."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def _check_gpu(device: torch.device, directory: Path) -> str:
    """Return the GPU's name; refuse what CUDA would refuse later and less clearly.

    Raises:
        VersionError: no GPU is seen, its driver is too old for this torch, or the GPU itself is.
    """
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.set_device(device)  # of this thread, in which everything runs
        capability = torch.cuda.get_device_capability(device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built for CPUs
        raise VersionError(
            f"{directory}: needs an NVIDIA GPU, and torch {torch.__version__} has none: {_first_line(error)}"
        ) from error
    name = torch.cuda.get_device_name(device)
    if capability < _MIN_CAPABILITY:
        has, needs = (".".join(map(str, version)) for version in (capability, _MIN_CAPABILITY))
        raise VersionError(f"{directory}: {name} has compute capability {has}, and {needs} is needed")
    return name


_MIN_CAPABILITY: Final = (8, 0)
"""Ampere, the first with bf16; what torch's wheels are built for reaches farther back."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
