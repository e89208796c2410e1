"""Whether this machine has the device on which the model is served, before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local.errors import LocalError
from model_boss import Nvml, first_gpu
from reward import deployment, manifest
from reward.contract import NETWORK
from reward.errors import VersionError

if TYPE_CHECKING:
    from pathlib import Path

    from model_boss import Meter


def check_device(
    repository: Path, wanted: str | None, *, is_shared: bool, meter: Meter | None = None
) -> None:
    """Refuse to start a model that could not be loaded.

    Args:
        repository: of the served versions.
        wanted: `cpu` or `gpu`, as the command line says; None takes what is deployed.
        is_shared: whether a ledger gives the GPU's memory out, so that it need not be free now.
        meter: of the GPU's memory.

    Raises:
        LocalError: the model is deployed on another device, no GPU answers, or its memory is taken.
    """
    try:
        served = deployment.read(repository)
        needed_mb = sum(
            manifest.read(repository / NETWORK.name / str(number)).claimed_mb for number in served.versions
        )
    except VersionError as error:
        raise LocalError(str(error)) from error
    if wanted not in (None, served.device):
        raise LocalError(
            f"version {served.stable} is served on the {served.device}: promote one that was published with "
            f"--device {wanted} (python -m export list), or 'make up PRECISION=fp16', which publishes one for a GPU"
        )
    if served.device != "gpu":
        return
    memory = (meter or Nvml()).read(first_gpu())
    if memory is None:
        raise LocalError(
            f"version {served.stable} is served on a GPU, and none answers here (nvidia-smi says why); "
            "promote a version that was published for the cpu"
        )
    free_mb = memory.total_mb - memory.used_mb
    if free_mb < needed_mb and not is_shared:
        raise LocalError(
            f"the GPU has {free_mb} of {memory.total_mb} MiB free, and {needed_mb} are needed: nvidia-smi says "
            "who has them; --redis or AESTHETIC_REDIS_URL shares a GPU (docs/gpu-sharing.md)"
        )
