"""Which versions are served, to whom, and their manifests, as the model repository has them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

from frontend.triton.errors import NotReady
from reward import deployment, manifest, preprocess
from reward.contract import NETWORK
from reward.deployment import PYTHON
from reward.errors import VersionError

if TYPE_CHECKING:
    from pathlib import Path

    from reward.manifest import Manifest


class Role(StrEnum):
    """What a version is served for."""

    STABLE = "stable"
    CANARY = "canary"
    """It answers its share of the questions."""
    SHADOW = "shadow"
    """It scores its share of the questions as well, but answers none."""


@dataclass(frozen=True)
class ServedVersion:
    """One version of the network that Triton must have loaded."""

    version: str
    role: Role
    share: float
    manifest: Manifest

    @cached_property
    def identity(self) -> str:
        """Digest what its scores depend on; versions with the same digest give the same scores."""
        content = self.manifest
        parts = [content.checkpoint_sha256, content.preprocessing, content.precision, content.runtime]
        parts += [f"{name}:{digest}" for name, digest in sorted(content.files.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Served:
    """Everything that is served now, or would be once the model is loaded."""

    stable: ServedVersion
    canary: ServedVersion | None
    shadow: ServedVersion | None
    troubles: dict[str, str]
    """Why a deployed canary or shadow is left out."""
    device: str
    """`cpu` or `gpu`. A version that cannot run there is not loaded: none goes elsewhere."""
    backend: str
    """Triton's backend; `python` leaves it to a version what computes its scores."""
    triton_version: str

    @property
    def versions(self) -> list[ServedVersion]:
        """Return all of them, the stable one first."""
        return [one for one in (self.stable, self.canary, self.shadow) if one is not None]

    def runtime(self, version: ServedVersion) -> str:
        """Return what computes a version's scores."""
        return version.manifest.runtime if self.backend == PYTHON else f"triton-{self.backend}"

    def find(self, version: str) -> ServedVersion | None:
        """Return the version of this name; return None if it is not served."""
        return next((one for one in self.versions if one.version == version), None)


def read_served(repository: Path, triton_version: str) -> Served:
    """Read what is deployed, and the manifests of those versions.

    Raises:
        NotReady: no version is served, or this frontend cannot use the stable one.
    """
    try:
        deployed = deployment.read(repository)
    except VersionError as error:
        raise NotReady("no version of the model is served", internal=str(error)) from error
    beside: dict[Role, ServedVersion] = {}
    troubles: dict[str, str] = {}
    for role, share in ((Role.CANARY, deployed.canary), (Role.SHADOW, deployed.shadow)):
        if share is None:
            continue
        try:
            content = _read_manifest(repository, share.version)
        except NotReady as error:
            troubles[role] = f"version {share.version}: {error.detail}"
        else:
            beside[role] = ServedVersion(str(share.version), role, share.share, content)
    content = _read_manifest(repository, deployed.stable)
    return Served(
        stable=ServedVersion(str(deployed.stable), Role.STABLE, 1.0, content),
        canary=beside.get(Role.CANARY),
        shadow=beside.get(Role.SHADOW),
        troubles=troubles,
        device=deployed.device,
        backend=deployed.backend,
        triton_version=triton_version,
    )


def _read_manifest(repository: Path, version: int) -> Manifest:
    try:
        content = manifest.read(repository / NETWORK.name / str(version))
    except VersionError as error:
        raise NotReady("the served version has no readable manifest", internal=str(error)) from error
    if content.preprocessing != preprocess.digest():
        raise NotReady(
            "the served version was published for another preprocessing",
            internal=f"{content.preprocessing} is published, {preprocess.digest()} is installed",
        )
    return content
