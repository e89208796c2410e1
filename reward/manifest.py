"""What a published version says about itself.

This is the file `manifest.json` in its directory, written once.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from reward import preprocess
from reward.contract import MAX_BATCH
from reward.errors import CheckpointError, VersionError
from reward.files import sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE_NAME: Final = "manifest.json"
UNMEASURED_MB: Final = 2048

_MAX_CPU_EXECUTION_S: Final = 5.0
"""On a CPU an execution cannot be interrupted, and everybody else waits until it ends."""
_MIN_CPU_ROWS: Final = 4  # so many rows a promotion asks for
_UNMEASURED_CPU_ROWS: Final = 8


@dataclass(frozen=True)
class Manifest:
    """The identity and origin of one version of the network."""

    name: str
    """The name of the weights, as every response shows it: `ImageReward-v1.0`, or the publisher's
    own.
    """
    checkpoint_sha256: str
    precision: str
    runtime: str
    opset: int
    preprocessing: str
    """`reward.preprocess.digest()` at the time of publishing."""
    dimensions: dict[str, int]
    """`reward.network.Dimensions` as plain numbers, so that serving needs no torch."""
    files: dict[str, str]
    """File name -> sha256, for every file in the directory except the manifest."""
    tools: dict[str, str]
    """Package -> version, for the packages that made the files."""
    created_at: str
    """UTC, ISO 8601."""
    vram_mb: int | None = None
    """The measured use of GPU memory, in MiB; None if publishing saw no GPU."""
    gates: dict[str, Any] | None = None
    """How the version was measured before it was published, and whether it `passed`; None if it was
    not.
    """
    seconds_per_image: float | None = None
    """The measured time of one image in a batch of 8, on the machine that published; None if it was
    not measured.
    """

    @property
    def max_cpu_rows(self) -> int:
        """Return how many rows one execution on a CPU may have, so that it takes a few seconds.

        It is a power of two, so that nearly equal measurements give the same configuration.
        """
        if self.seconds_per_image is None:
            return _UNMEASURED_CPU_ROWS
        fits = int(_MAX_CPU_EXECUTION_S / max(self.seconds_per_image, 1e-9))
        return min(MAX_BATCH, max(_MIN_CPU_ROWS, 1 << max(0, fits.bit_length() - 1)))

    @property
    def claimed_mb(self) -> int:
        """Return what is claimed of a shared GPU: the measured memory, or a default without one."""
        return self.vram_mb or UNMEASURED_MB


def read(directory: Path) -> Manifest:
    """Read a version directory's manifest.

    Raises:
        VersionError: missing, or not a manifest of this service.
    """
    path = directory / FILE_NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        names = {field.name for field in dataclasses.fields(Manifest)}
        return Manifest(**{name: value for name, value in content.items() if name in names})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise VersionError(
            f"{path}: missing or not a manifest: was it deleted by hand? publish its checkpoint again"
        ) from error


def read_checked(directory: Path, digest: Callable[[Path], str] = sha256) -> Manifest:
    """Read the manifest and compare it with the files beside it and with this installation.

    A damaged weight would not fail but score wrongly, and so would pixels prepared otherwise.

    Args:
        directory: of the version.
        digest: of a file: `sha256` reads it, `remembered_sha256` only if it is new.

    Raises:
        VersionError: no manifest, another preprocessing, or a file that is missing or another.
    """
    content = read(directory)
    if content.preprocessing != preprocess.digest():
        raise VersionError(
            f"{directory}: made for the preprocessing {content.preprocessing}, and images are prepared by "
            f"{preprocess.digest()} here: publish its checkpoint again"
        )
    for name, expected in content.files.items():
        try:
            found = digest(directory / name)
        except CheckpointError as error:
            raise VersionError(f"{error}: publish its checkpoint again") from error
        if found != expected:
            raise VersionError(
                f"{directory / name}: not the file that the manifest names: publish its checkpoint again"
            )
    return content


def write(manifest: Manifest, directory: Path) -> None:
    """Write the manifest into a version directory under construction."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False)
    (directory / FILE_NAME).write_text(text + "\n")
