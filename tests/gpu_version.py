"""Small versions for GPUs, written in milliseconds: weights and manifest, compared with nothing."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from typing import TYPE_CHECKING

from reward import checkpoint, manifest, preprocess
from reward.files import sha256
from reward.runtimes import TORCH_CUDA
from reward.runtimes.torch_cuda import DTYPES, WEIGHTS_FILE_NAME
from tests.repository import CHECKOUT
from tests.small import small_network

if TYPE_CHECKING:
    from pathlib import Path

    from reward.network import RewardNetwork

SEED = 5
"""Of a small network that half precision rounds within the limits of its gate."""


def write_gpu_version(directory: Path, precision: str, network: RewardNetwork | None = None) -> Path:
    """Write a network, by default the small one, in a precision; without a graph."""
    directory.mkdir()
    network = copy.deepcopy(network or small_network(SEED)).to_precision(DTYPES[precision])
    path = directory / WEIGHTS_FILE_NAME
    checkpoint.save(network, path)
    model = directory / "model.py"
    shutil.copy(CHECKOUT / "export" / "published_model.py", model)
    content = manifest.Manifest(
        name="random weights",
        checkpoint_sha256="0" * 64,
        precision=precision,
        runtime=TORCH_CUDA,
        opset=0,
        preprocessing=preprocess.digest(),
        dimensions=dataclasses.asdict(network.dimensions),
        files={path.name: sha256(path), model.name: sha256(model)},
        tools={},
        created_at="2026-11-29T00:00:00+00:00",
    )
    manifest.write(content, directory)
    return directory
