"""Whether a version may be served, by its directory and its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.errors import Refused
from reward import manifest, preprocess
from reward.errors import CheckpointError, VersionError
from reward.files import sha256

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
        content = manifest.read(directory)
    except VersionError as error:
        raise Refused(f"{error}: was it deleted by hand? publish its checkpoint again") from error
    if content.preprocessing != preprocess.digest():
        raise Refused(
            f"{directory}: made for the preprocessing {content.preprocessing}, not {preprocess.digest()}: "
            "publish its checkpoint again"
        )
    for name, digest in content.files.items():
        try:
            found = sha256(directory / name)
        except CheckpointError as error:
            raise Refused(f"{error}: publish its checkpoint again") from error
        if found != digest:
            raise Refused(
                f"{directory / name}: not the file that the manifest names: publish its checkpoint again"
            )
    if not below_gates and not (content.gates or {}).get("passed", True):
        raise Refused(
            f"{directory}: did not pass the gates when it was published; --force takes it all the same"
        )
    return content
