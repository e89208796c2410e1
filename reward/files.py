"""Digests of files, by which checkpoints and published versions are known."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from reward.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def sha256(path: Path) -> str:
    """Digest a file, in hexadecimal.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
