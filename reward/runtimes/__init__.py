"""A published version directory -> a callable that scores a batch.

The version's manifest names its runtime. Each runtime is one module here, imported only when a
version asks for it. So nobody needs the libraries of a runtime that is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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


class Runtime(Protocol):
    """One loaded version of the network."""

    @property
    def manifest(self) -> Manifest:
        """Return what the version says about itself."""

    def score(
        self, pixels: NDArray[np.uint8], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score a batch: (B, 3, 224, 224), (B, 35), (B, 35) -> (B, 1)."""


def load(directory: Path, *, threads: int = 0) -> Runtime:
    """Load a version.

    Args:
        directory: `<model repository>/image_reward_network/<version>`.
        threads: for one execution on the CPU; 0 takes every CPU that this process may use.

    Raises:
        VersionError: missing, damaged, not loadable, published for another preprocessing or for a
            runtime that is not there, or giving scores that are not numbers.
    """
    version = manifest.read_checked(directory, remembered_sha256)
    if version.runtime != "onnxruntime":
        raise VersionError(
            f"{directory}: made for the runtime {version.runtime!r}; this release has onnxruntime alone"
        )
    from reward.runtimes.onnxruntime import OnnxRuntime  # noqa: PLC0415 - only where a version asks for it

    runtime = OnnxRuntime(directory, version, threads)
    _check_score(directory, runtime)
    return runtime


def _check_score(directory: Path, runtime: Runtime) -> None:
    """Score a grey picture without words, so that the slow first execution delays no request."""
    tokens = tokenise([""])
    grey = np.full((1, *PIXELS.shape), 128, np.uint8)
    if not np.isfinite(runtime.score(grey, tokens.input_ids, tokens.attention_mask)).all():
        raise VersionError(f"{directory}: gives a score that is no number")
