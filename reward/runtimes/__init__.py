"""A published version directory -> a callable that scores a batch.

The version's manifest names its runtime. Each runtime is one module here, imported only when a
version asks for it. So nobody needs the libraries of a runtime that is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from reward import manifest
from reward.contract import PIXELS
from reward.errors import VersionError
from reward.files import remembered_sha256
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from reward.manifest import Manifest


ONNXRUNTIME: Final = "onnxruntime"
"""A graph, on the CPU: fp32 and int8."""

TORCH_CUDA: Final = "torch_cuda"
"""Weights, on an NVIDIA GPU: fp16, bf16 and fp32."""


GRAPH_FILE_NAME: Final = "network.onnx"
"""Of a version for the CPU, and of a fp16 version for Triton's native backends."""


class Runtime(Protocol):
    """One loaded version of the network."""

    @property
    def manifest(self) -> Manifest:
        """Return what the version says about itself."""

    @property
    def ran_on(self) -> str:
        """Return what computes its scores: `CPU`, or the GPU's name."""

    def score(
        self, pixels: NDArray[np.uint8], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score a batch: (B, 3, 224, 224), (B, 35), (B, 35) -> (B, 1)."""


def load(directory: Path, *, threads: int = 0, device: str = "cpu", compiled: bool = False) -> Runtime:
    """Load a version on the device that is named, and on no other.

    Args:
        directory: `<model repository>/image_reward_network/<version>`.
        threads: for one execution on the CPU; 0 takes every CPU that this process may use.
        device: `cpu`, or `cuda:0` for the first GPU. A version for GPUs runs on a CPU too, slowly,
            so that it can be tried.
        compiled: fuse its kernels first; on a GPU alone.

    Raises:
        VersionError: missing, damaged, not loadable, published for another preprocessing, device or
            runtime than is there, or giving scores that are not numbers.
    """
    version = manifest.read_checked(directory, remembered_sha256)
    if version.runtime not in {ONNXRUNTIME, TORCH_CUDA}:
        raise VersionError(f"{directory}: made for the runtime {version.runtime!r}, which this release lacks")
    runtime = _load(directory, version, threads=threads, device=device, compiled=compiled)
    _check_score(directory, runtime)
    return runtime


def _load(directory: Path, version: Manifest, *, threads: int, device: str, compiled: bool) -> Runtime:
    if version.runtime == ONNXRUNTIME:
        if device != "cpu":
            raise VersionError(
                f"{directory}: was published for the CPU, and is asked to run on a GPU: "
                "publish its checkpoint with --device gpu, too"
            )
        from reward.runtimes.onnxruntime import OnnxRuntime  # noqa: PLC0415 - only where a version asks for it

        return OnnxRuntime(directory, version, threads)
    try:
        from reward.runtimes.torch_cuda import TorchRuntime  # noqa: PLC0415
    except ImportError as error:
        raise VersionError(f"{directory}: needs torch: install the extra 'gpu' ({error})") from error
    return TorchRuntime(directory, version, device, compiled=compiled)


def _check_score(directory: Path, runtime: Runtime) -> None:
    """Score a grey picture without words, so that the slow first execution delays no request."""
    tokens = tokenise([""])
    grey = np.full((1, *PIXELS.shape), 128, np.uint8)
    if not np.isfinite(runtime.score(grey, tokens.input_ids, tokens.attention_mask)).all():
        raise VersionError(f"{directory}: gives a score that is no number")
