"""Versions that onnxruntime runs on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime

from reward.contract import ATTENTION_MASK, INPUT_IDS, MAX_TOKENS, PIXELS
from reward.errors import VersionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reward.manifest import Manifest

GRAPH_FILE_NAME: Final = "network.onnx"


class OnnxRuntime:
    """A `reward.runtimes.Runtime`; `threads` of 0 takes every CPU that this process may use.

    Left to itself, onnxruntime takes every core of the machine, whatever the container's share.

    Raises:
        VersionError: onnxruntime cannot load the graph.
    """

    def __init__(self, directory: Path, manifest: Manifest, threads: int) -> None:
        self.manifest = manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.inter_op_num_threads = 1
        # Idle threads sleep instead of spinning: the frontend's workers need the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                directory / GRAPH_FILE_NAME, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise VersionError(f"{directory}: the graph cannot be loaded: {error}") from error

    def score(
        self, pixels: NDArray[np.uint8], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score a batch: (B, 3, 224, 224), (B, 35), (B, 35) -> (B, 1).

        Columns in which every prompt is padding are left out; they would change nothing but the
        time.
        """
        tokens = MAX_TOKENS - int(np.argmax(attention_mask.any(axis=0)[::-1]))
        inputs = {
            PIXELS.name: np.ascontiguousarray(pixels),
            INPUT_IDS.name: np.ascontiguousarray(input_ids[:, :tokens]),
            ATTENTION_MASK.name: np.ascontiguousarray(attention_mask[:, :tokens]),
        }
        rewards: NDArray[np.float32] = self._session.run(None, inputs)[0]
        return rewards


def available_cpus() -> int:
    """Count the CPUs of this process's affinity mask, within the cgroup's quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    if quota == "max":
        return cpus
    return max(1, min(cpus, int(quota) // int(period)))
