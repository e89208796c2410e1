"""A published version directory -> a callable that scores a batch, with onnxruntime on the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import numpy as np

from reward import manifest
from reward.contract import ATTENTION_MASK, INPUT_IDS, MAX_TOKENS, PIXELS
from reward.errors import CheckpointError, InvalidTensor, VersionError
from reward.files import sha256

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime
    from numpy.typing import NDArray

GRAPH_FILE_NAME: Final = "network.onnx"


class Runtime:
    """One loaded version of the network."""

    def __init__(self, session: onnxruntime.InferenceSession, version: manifest.Manifest) -> None:
        self._session = session
        self.manifest = version

    def check(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> None:
        """Refuse tensors that would fail, or turn into NaN, the whole batch they are joined to.

        Raises:
            InvalidTensor: a token id outside the vocabulary, or a mask of other than 0 and 1 or of 0 alone.
        """
        vocabulary_size = self.manifest.dimensions["vocabulary_size"]
        if input_ids.size and (input_ids.min() < 0 or input_ids.max() >= vocabulary_size):
            raise InvalidTensor(f"{INPUT_IDS.name} must lie in 0 .. {vocabulary_size - 1}")
        if not np.isin(attention_mask, (0, 1)).all() or not attention_mask.any(axis=-1).all():
            raise InvalidTensor(f"{ATTENTION_MASK.name} must be 0 or 1, and 1 somewhere in every row")

    def score(
        self,
        pixels: NDArray[np.uint8],
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Score a batch: (B, 3, 224, 224), (B, 35), (B, 35) -> (B, 1).

        Columns in which every prompt is padding are left out; they would change nothing but the time.
        """
        tokens = MAX_TOKENS - int(np.argmax(attention_mask.any(axis=0)[::-1]))
        inputs = {
            PIXELS.name: np.ascontiguousarray(pixels),
            INPUT_IDS.name: np.ascontiguousarray(input_ids[:, :tokens]),
            ATTENTION_MASK.name: np.ascontiguousarray(attention_mask[:, :tokens]),
        }
        rewards: NDArray[np.float32] = self._session.run(None, inputs)[0]
        return rewards


def load(directory: Path, *, threads: int = 0) -> Runtime:
    """Load a version.

    Args:
        directory: `<model repository>/image_reward_network/<version>`.
        threads: of one execution; 0 takes every CPU this process may use. (Left to itself, onnxruntime
            takes every core of the machine, whatever the container's share.)

    Raises:
        VersionError: missing, damaged, or not loadable.
    """
    import onnxruntime  # noqa: PLC0415 - callers that only prepare tensors do without it

    version = manifest.read(directory)
    _check_files(directory, version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cpus()
    options.inter_op_num_threads = 1
    # Idle threads sleep instead of spinning: the frontend's workers need the same cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            directory / GRAPH_FILE_NAME, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no public base class
        raise VersionError(f"{directory}: the graph cannot be loaded: {error}") from error
    return Runtime(session, version)


def _check_files(directory: Path, version: manifest.Manifest) -> None:
    """Hold every file against its digest: a damaged weight would not fail, it would score wrongly."""
    for name, digest in version.files.items():
        try:
            actual = sha256(directory / name)
        except CheckpointError as error:
            raise VersionError(str(error)) from error
        if actual != digest:
            raise VersionError(f"{directory / name}: damaged, its sha256 is not the manifest's")


def available_cpus() -> int:
    """Count the CPUs of this process's affinity mask, within the cgroup's quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # noqa: PTH123 - a kernel interface, not a path of ours
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cpus
    if quota == "max":
        return cpus
    return max(1, min(cpus, int(quota) // int(period)))
