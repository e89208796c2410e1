"""Whether a version may be served, by its directory and its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.errors import Refused
from reward import manifest
from reward.errors import VersionError

if TYPE_CHECKING:
    from pathlib import Path

    from reward.manifest import Manifest


def check(directory: Path, *, below_gates: bool = False) -> Manifest:
    """Compare a version's files with its manifest, and the manifest with this installation.

    Args:
        directory: of the version.
        below_gates: whether to accept a version that did not pass the gates when it was published.

    Raises:
        Refused: a file is missing or changed, the version was made for another preprocessing, or it
            did not pass the gates.
    """
    try:
        content = manifest.read_checked(directory)
    except VersionError as error:
        raise Refused(str(error)) from error
    if not below_gates and not (content.gates or {}).get("passed", True):
        raise Refused(
            f"{directory}: did not pass the gates when it was published; --force takes it all the same"
        )
    return content
