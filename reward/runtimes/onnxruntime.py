"""Versions that onnxruntime runs on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from reward.contract import ATTENTION_MASK, INPUT_IDS, MAX_TOKENS, PIXELS
from reward.cpus import available_cpus
from reward.errors import VersionError
from reward.runtimes import GRAPH_FILE_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reward.manifest import Manifest


class OnnxRuntime:
    """A `reward.runtimes.Runtime`; `threads` of 0 takes every CPU that this process may use.

    By default onnxruntime would take every core of the machine, whatever the container's share is.

    Raises:
        VersionError: onnxruntime cannot load the graph.
    """

    def __init__(self, directory: Path, manifest: Manifest, threads: int) -> None:
        self.manifest = manifest
        self.ran_on = "CPU"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.inter_op_num_threads = 1
        # Idle threads sleep instead of spinning: the frontend's workers need the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not multiplies_bytes_exactly():
            # This is slower, but gives the same scores everywhere.
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                directory / GRAPH_FILE_NAME, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise VersionError(f"{directory}: the graph cannot be loaded: {error}") from error

    def score(
        self, pixels: NDArray[np.uint8], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score a batch: (B, 3, 224, 224), (B, 35), (B, 35) -> (B, 1)."""
        inputs = graph_inputs(pixels, input_ids, attention_mask)
        rewards: NDArray[np.float32] = self._session.run(None, inputs)[0]
        return rewards


def graph_inputs(
    pixels: NDArray[np.uint8], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Name a batch's tensors as the graph does.

    Columns in which every prompt is padding are left out. They would change only the time.
    """
    tokens = MAX_TOKENS - int(np.argmax(attention_mask.any(axis=0)[::-1]))
    return {
        PIXELS.name: np.ascontiguousarray(pixels),
        INPUT_IDS.name: np.ascontiguousarray(input_ids[:, :tokens]),
        ATTENTION_MASK.name: np.ascontiguousarray(attention_mask[:, :tokens]),
    }


def multiplies_bytes_exactly(cpuinfo: str | None = None) -> bool:
    """Tell whether this processor adds up 8-bit products without losing any (VNNI or AMX).

    Processors with only AVX2 add pairs of them in 16 bits, which saturate. There int8 scores would
    be wrong without any error. Processors that are not x86 do not have this fault, and ignore the
    remedy.
    """
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            return False
    return not {"avx512_vnni", "avx_vnni", "amx_int8"}.isdisjoint(cpuinfo.split())
