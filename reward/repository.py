"""Which version a model repository serves, by its own configuration, whether or not Triton has it loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from reward.contract import NETWORK
from reward.errors import VersionError

if TYPE_CHECKING:
    from pathlib import Path

SERVED: Final = re.compile(r"(version_policy:\s*\{\s*specific:\s*\{\s*versions:\s*\[\s*)(\d+)(\s*\])")
"""Group 2 is the number, in the network's `config.pbtxt`."""


def served_version(repository: Path) -> int:
    """Return the number in the network's configuration, published or not.

    Raises:
        VersionError: there is no such configuration, or it names no one version.
    """
    path = repository / NETWORK.name / "config.pbtxt"
    try:
        match = SERVED.search(path.read_text())
    except OSError as error:
        raise VersionError(f"{path}: cannot be read: {error.strerror}") from error
    if match is None:
        raise VersionError(f"{path}: names no specific version")
    return int(match[2])
