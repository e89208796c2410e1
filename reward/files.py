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
    """Digest a file, in hexadecimal, and remember that of a large one.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if status.st_size >= _REMEMBERED_BYTES:
        present = {name: entry for name, entry in _remembered().items() if Path(name).exists()}
        _remember(present | {str(path.resolve()): [*_identity(status), digest]})
    return digest


def remembered_sha256(path: Path) -> str:
    """Digest a large file once; the digest is kept in the user's cache until the file changes.

    A file has changed if its inode, its size, or its time of change by the system's clock is
    another. A change by a failing disk, which nobody wrote, is not noticed; `sha256` notices it.

    Raises:
        CheckpointError: it cannot be read.
    """
    with suppress(OSError):  # `sha256` says why
        status = path.stat()
        known = _remembered().get(str(path.resolve())) if status.st_size >= _REMEMBERED_BYTES else None
        if known and known[:-1] == _identity(status):
            return str(known[-1])
    return sha256(path)


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


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
