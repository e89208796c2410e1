"""How much memory the model is said to take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from frontend.triton.errors import NotReady
from reward import deployment, manifest
from reward.contract import NETWORK
from reward.errors import VersionError

if TYPE_CHECKING:
    from pathlib import Path

_UNMEASURED_MB: Final = 2048


def measured_mb(repository: Path) -> int:
    """Read it in the manifest of the version that would be loaded; else take a number.

    Raises:
        NotReady: no version is promoted.
    """
    try:
        content = manifest.read(repository / NETWORK.name / str(deployment.read(repository).stable))
    except VersionError as error:
        raise NotReady("no version is promoted", internal=str(error)) from error
    return content.vram_mb or _UNMEASURED_MB
