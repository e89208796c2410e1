"""Digests of files, by which checkpoints and published versions are known."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from reward.errors import CheckpointError

_REMEMBERED_BYTES: Final = 64 * 1024 * 1024
"""From this size on, computing a digest takes longer than looking it up."""


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


def remembered_sha256(path: Path) -> str:
    """Digest a large file once; the digest is kept in the user's cache until the file changes.

    A file has changed if its inode, its size, or its time of change by the system's clock is
    another. A change by a failing disk, which nobody wrote, is not noticed; `sha256` notices it.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        status = path.stat()
    except OSError:
        return sha256(path)  # which says why
    if status.st_size < _REMEMBERED_BYTES:
        return sha256(path)
    name = str(path.resolve())
    identity = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    known = _remembered()
    if name in known and known[name][:-1] == identity:
        return str(known[name][-1])
    digest = sha256(path)
    present = {name: entry for name, entry in known.items() if Path(name).exists()}
    _remember(present | {name: [*identity, digest]})
    return digest


def _memory() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "imajin-aesthetic" / "sha256.json"


def _remembered() -> dict[str, list[Any]]:
    """Read the remembered digests; there are none if the memory is missing or damaged."""
    with suppress(OSError, ValueError, RuntimeError):  # the last: there is no home
        content = json.loads(_memory().read_text())
        if isinstance(content, dict) and all(isinstance(entry, list) for entry in content.values()):
            return content
    return {}


def _remember(known: dict[str, list[Any]]) -> None:
    with suppress(OSError, RuntimeError):  # a read-only home costs time, and nothing else
        path = _memory()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(known, indent=1))
        draft.replace(path)
