"""Who gives out the GPU's memory, and how much of it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from frontend.triton.errors import NotReady
from reward import deployment, manifest
from reward.contract import NETWORK
from reward.errors import VersionError

if TYPE_CHECKING:
    from pathlib import Path

    from model_boss import GpuLedger

_UNMEASURED_MB: Final = 2048


def load_ledger(name: str, gpu: str) -> GpuLedger:
    """Build the ledger that a `package.module:factory` names: a coordinator in model-boss's place.

    The factory is called with the GPU's name; `docs/gpu-sharing.md` shows one.

    Raises:
        ValueError: it names none.
    """
    module, _, factory = name.partition(":")
    try:
        build = getattr(import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} is not package.module:factory: {error}") from error
    ledger: GpuLedger = build(gpu)
    return ledger


def measured_mb(repository: Path) -> int:
    """Read in the manifest of the version that would be loaded what it takes; else take a number.

    Raises:
        NotReady: no version is promoted.
    """
    try:
        content = manifest.read(repository / NETWORK.name / str(deployment.read(repository).stable))
    except VersionError as error:
        raise NotReady("no version is promoted", internal=str(error)) from error
    return content.vram_mb or _UNMEASURED_MB
