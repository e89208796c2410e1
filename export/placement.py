"""On which device, and by which of Triton's backends, the versions of a deployment run.

All versions of a model share one configuration in Triton. So all that are served at a time must
have been published for one device.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from export.errors import Refused
from export.native_config import NATIVE_BACKENDS
from reward.deployment import PYTHON
from reward.runtimes import GRAPH_FILE_NAME, ONNXRUNTIME, TORCH_CUDA

if TYPE_CHECKING:
    from export.registry import Registry
    from reward.deployment import Deployment
    from reward.manifest import Manifest

PRECISIONS: Final[dict[str, tuple[str, ...]]] = {
    "fp32": ("cpu", "gpu"),
    "fp16": ("gpu",),
    "bf16": ("gpu",),
    "int8": ("cpu",),
}
"""Precision -> the devices for which it can be published; the first is the default."""

_DEVICE_OF: Final = {ONNXRUNTIME: "cpu", TORCH_CUDA: "gpu"}


def place(
    content: Deployment,
    registry: Registry,
    *,
    device: str | None = None,
    backend: str | None = None,
    force: bool = False,
) -> Deployment:
    """Return the deployment with its device and backend.

    Args:
        content: which versions are served.
        registry: of the versions.
        device: None takes the one that the stable version was published for.
        backend: None leaves it as it is, where the stable version can be run by it.
        force: accept versions that were published for another device.

    Raises:
        Refused: a version was published for another device, or not for the backend.
    """
    manifests = {one.number: one.manifest for one in registry.versions() if one.number in content.versions}
    stable = manifests.get(content.stable)  # which may have been deleted by hand
    if stable is not None:
        device = device or _DEVICE_OF.get(stable.runtime, content.device)
        if device != "gpu" or not _is_native(stable):
            backend = backend or PYTHON
    device, backend = device or content.device, backend or content.backend
    for number, manifest in manifests.items():
        made_for = _DEVICE_OF.get(manifest.runtime, device)
        if made_for != device and not force:
            raise Refused(
                f"version {number} was published for the {made_for}, and would run on the {device}: "
                f"publish its checkpoint with --device {device}, too"
            )
        if backend in NATIVE_BACKENDS and (device != "gpu" or not _is_native(manifest)):
            raise Refused(
                f"version {number} on the {device} cannot be run by {backend}, which takes versions of "
                "fp16 on the gpu"
            )
    return dataclasses.replace(content, device=device, backend=backend)


def _is_native(manifest: Manifest) -> bool:
    """Tell whether a version has the graph that native backends run."""
    return manifest.runtime == TORCH_CUDA and GRAPH_FILE_NAME in manifest.files
