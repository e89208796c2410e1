"""Files that hold a secret."""

from __future__ import annotations

import os
import secrets
import stat
import string
from typing import TYPE_CHECKING, Final

from local.errors import LocalError

if TYPE_CHECKING:
    from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole by one that only its owner can read, whatever lay there before.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def read_or_make_key(path: Path) -> str:
    """Read a key from a file that its user alone can read; make both if there is no such file.

    Raises:
        LocalError: others can read it, it holds no key, or it can be neither read nor written.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, secrets.token_urlsafe(24) + "\n")
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise LocalError(f"{path}: others can read this key; chmod 600 it")
        key = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise LocalError(f"{path}: cannot be read or written as a key: {error}") from error
    if not key or not set(key) <= _KEY_CHARACTERS:
        raise LocalError(f"{path}: a key has letters, digits, - and _ alone")
    return key


_KEY_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "-_")
