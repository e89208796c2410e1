"""API keys: a file of names and SHA-256 digests, read again when it changes.

Each line is `name:digest`; `#` begins a comment. While a key is being changed, its name may be on
two lines. The digest is plain SHA-256, because keys are random: `python -m frontend hash-key NAME`
makes them 256 bits long.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<digest>[0-9a-fA-F]{64})")
_LOGGER: Final = logging.getLogger("imajin_aesthetic.keys")


class KeysInvalid(ValueError):
    """The file cannot be read, or one of its lines is not valid."""


def key_line(name: str, key: str) -> str:
    """Compose the file's line for a key.

    Raises:
        KeysInvalid: the name has characters that are not allowed.
    """
    line = f"{name}:{_digest(key.encode())}"
    if not _LINE.fullmatch(line):
        raise KeysInvalid("a name is 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return line


class KeyRing:
    """The keys of one file.

    A change that cannot be read is logged and leaves the keys as they were. Neither a typing error
    nor a file that is just being replaced may lock everybody out, or let anybody in.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            KeysInvalid: it cannot be read.
        """
        self._path = path
        self._stamp = _stamp(path)
        self._names = _read(path)

    def name_of(self, key: bytes) -> str | None:
        """Return the name of a key; return None if there is no such key."""
        self._refresh()
        return self._names.get(_digest(key))  # how long that takes tells of the digest at most

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._names = _read(self._path)
        except KeysInvalid as error:
            _LOGGER.error("the API keys stay as they were: %s", error)  # noqa: TRY400 - no traceback
        else:
            _LOGGER.info("%d API keys were read", len(self._names))


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        # Links are followed, because mounted secrets are replaced through them.
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> dict[str, str]:
    """Return the keys' names by their digests."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise KeysInvalid(f"{path} cannot be read: {reason}") from error
    names = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise KeysInvalid(f"{path}, line {number}: not of the form name:sha256")
        names[match["digest"].lower()] = match["name"]
    return names
