"""A published version directory -> a callable that scores a batch.

The version's manifest names its runtime. A runtime is one module here, imported only when a version
asks for it, so that nobody needs the libraries of a runtime that is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from reward import manifest
from reward.errors import CheckpointError, VersionError
from reward.files import sha256

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from reward.manifest import Manifest


class Runtime(Protocol):
    """One loaded version of the network."""

    @property
    def manifest(self) -> Manifest:
        """Return what the version says of itself."""

    def score(
        self, pixels: NDArray[np.uint8], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score a batch: (B, 3, 224, 224), (B, 35), (B, 35) -> (B, 1)."""


def load(directory: Path, *, threads: int = 0) -> Runtime:
    """Load a version.

    Args:
        directory: `<model repository>/image_reward_network/<version>`.
        threads: of one execution on the CPU; 0 takes every CPU that this process may use.

    Raises:
        VersionError: missing, damaged, not loadable, or of a runtime that is not there.
    """
    version = manifest.read(directory)
    if version.runtime != "onnxruntime":
        raise VersionError(
            f"{directory}: made for the runtime {version.runtime!r}; this release has onnxruntime alone"
        )
    _check_files(directory, version)
    from reward.runtimes.onnxruntime import OnnxRuntime  # noqa: PLC0415 - only where a version asks for it

    return OnnxRuntime(directory, version, threads)


def _check_files(directory: Path, version: Manifest) -> None:
    """Hold every file against its digest: a damaged weight would not fail but score wrongly."""
    for name, digest in version.files.items():
        try:
            actual = sha256(directory / name)
        except CheckpointError as error:
            raise VersionError(str(error)) from error
        if actual != digest:
            raise VersionError(f"{directory / name}: damaged, its sha256 is not the manifest's")
