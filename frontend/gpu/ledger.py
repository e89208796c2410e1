"""Who gives out the GPU's memory, and how much of it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from frontend.triton.errors import NotReady
from reward import deployment, manifest
from reward.contract import NETWORK
from reward.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from model_boss import GpuLedger


def load_ledger(name: str, gpu: str) -> GpuLedger:
    """Build the ledger that `package.module:factory` names, a coordinator instead of model-boss.

    The factory is called with the GPU's name; `docs/gpu-sharing.md` shows one.

    Raises:
        ValueError: there is no such factory.
    """
    module, _, factory = name.partition(":")
    try:
        build = getattr(import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} is not package.module:factory: {error}") from error
    ledger: GpuLedger = build(gpu)
    return ledger


def served_versions(repository: Path) -> tuple[int, ...]:
    """Return the versions that requests are sent to; if none is named, any version will do.

    A version that was deleted by hand is not waited for.
    """
    if not deployment.path(repository).exists():
        return ()
    try:
        there = deployment.published(repository)
        return tuple(version for version in deployment.read(repository).versions if version in there)
    except VersionError:
        return ()


def needed_mb(repository: Path, loaded: Collection[int] = (), *, each_mb: int | None = None) -> int:
    """Add up what the served versions take, and what is loaded beside them, by their manifests.

    A promotion loads the new version beside the old one, and a canary stays there.

    Args:
        repository: of the models.
        loaded: the versions in Triton's memory.
        each_mb: what a version takes by the operator's word, instead of the manifests'.

    Raises:
        NotReady: no version is promoted.
    """
    try:
        served = deployment.read(repository)
        stable_mb = each_mb or _vram_mb(repository, served.stable)
    except VersionError as error:
        if each_mb is not None:
            return each_mb * max(1, len(loaded))  # the repository cannot be read from here
        raise NotReady("no version is promoted", internal=str(error)) from error
    beside = {*served.versions, *loaded} - {served.stable}
    return stable_mb + sum(each_mb or _vram_mb(repository, version, or_else=True) for version in beside)


def _vram_mb(repository: Path, version: int, *, or_else: bool = False) -> int:
    """Return the measured memory of a version; a default if it was not measured or is gone."""
    try:
        return manifest.read(repository / NETWORK.name / str(version)).claimed_mb
    except VersionError:
        if or_else:
            return manifest.UNMEASURED_MB
        raise
