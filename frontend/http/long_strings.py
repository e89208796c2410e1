"""Long strings cut out of JSON before it is parsed, so that parsing takes no time.

A parser in C or Rust holds the interpreter while it reads 50 MB of base64, in whatever thread it
runs. Finding the end of such a string is a search for one byte, and what is left is short.
"""

from __future__ import annotations

import secrets
from typing import Final

from frontend.images.shared_bytes import Piece, SharedBytes

_MIN_BYTES: Final = 2**16
_MAX_FIELDS: Final = 256
_MAX_GAP_BYTES: Final = 64  # of blanks around a colon
_BLANKS: Final = b" \t\r\n"


class LongStrings:
    """The strings that were cut out of one body, by the words that stand in their places."""

    def __init__(self) -> None:
        self._strings: dict[str, Piece] = {}
        self._mark = secrets.token_hex(16)  # a word that no caller can have sent

    def get(self, value: str) -> str | Piece:
        """Return a parsed value; of one that was cut out, what stood between its quotes."""
        return self._strings.get(value, value)

    def cut(self, content: SharedBytes, name: str) -> bytes:
        """Return `content` with a word for each long string value of a field called `name`."""
        key = f'"{name}"'.encode()
        kept: list[bytes] = []
        position = 0
        for _ in range(_MAX_FIELDS):
            found = content.find(key, position)
            if found < 0:
                break
            start = _value_start(content, found + len(key))
            end = content.find(b'"', start)
            if end - start >= _MIN_BYTES and content.read(end - 1, end) != b"\\":
                word = f"{self._mark}{len(self._strings)}"
                self._strings[word] = Piece(content, start, end)
                kept += [content.read(position, start), word.encode()]
            else:  # short, or no base64: the parser will say what it is
                end = found + len(key)
                kept.append(content.read(position, end))
            position = end
        kept.append(content.read(position, len(content)))
        return b"".join(kept)


def _value_start(content: SharedBytes, position: int) -> int:
    """Return where a key's string begins, after its quote; where there is none, the end of all."""
    head = content.read(position, position + _MAX_GAP_BYTES)
    colon = head.lstrip(_BLANKS)
    value = colon[1:].lstrip(_BLANKS)
    is_string = colon.startswith(b":") and value.startswith(b'"')
    return position + len(head) - len(value) + 1 if is_string else len(content)
