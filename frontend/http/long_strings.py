"""Cut long strings out of JSON before it is parsed, so that parsing takes almost no time.

A parser in C or Rust holds the interpreter while it reads 50 MB of base64, in whatever thread it
runs. Finding the end of such a string is a search for one byte, and the rest of the JSON is short.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from frontend.http.errors import PayloadTooLarge
from frontend.images.shared_bytes import Piece, SharedBytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MIN_BYTES: Final = 2**10
_MAX_FIELDS: Final = 256
_MAX_GAP_BYTES: Final = 64  # of blanks around a colon
_BLANKS: Final = b" \t\r\n"


class LongStrings:
    """The strings that were cut out of one body, by the words that took their places."""

    def __init__(self) -> None:
        self._strings: dict[str, Piece] = {}
        self._mark = secrets.token_hex(16)  # a word that no caller can have sent

    def get(self, value: str) -> str | Piece:
        """Return a parsed value; for a word, return the string that was cut out."""
        return self._strings.get(value, value)

    def cut(self, content: SharedBytes, fields: Mapping[str, bytes], *, max_rest_bytes: int) -> bytes:
        """Return `content` with a word in place of each long string value of some fields.

        `fields` are their names, and what such a value begins with, in lower case.

        Raises:
            PayloadTooLarge: the rest is still long.
        """
        places = sorted(place for name, head in fields.items() for place in _find(content, name, head))
        if len(content) - sum(end - start for start, end in places) > max_rest_bytes:
            raise PayloadTooLarge(f"beside its images the body has more than {max_rest_bytes} bytes")
        kept: list[bytes] = []
        position = 0
        for start, end in places:
            word = f"{self._mark}{len(self._strings)}"
            self._strings[word] = Piece(content, start, end)
            kept += [content.read(position, start), word.encode()]
            position = end
        kept.append(content.read(position, len(content)))
        return b"".join(kept)


def _find(content: SharedBytes, name: str, head: bytes) -> Iterator[tuple[int, int]]:
    """Find where the long strings of a field begin and end, without their quotes."""
    key = f'"{name}"'.encode()
    position = 0
    for _ in range(_MAX_FIELDS):
        found = content.find(key, position)
        if found < 0:
            return
        position = found + len(key)
        start = _value_start(content, position)
        if content.read(start, start + len(head)).lower() != head:
            continue
        end = content.find(b'"', start)
        # Else it is short, or no base64: the parser will say what it is.
        if end - start >= _MIN_BYTES and content.read(end - 1, end) != b"\\":
            yield start, end
            position = end


def _value_start(content: SharedBytes, position: int) -> int:
    """Return where a key's string begins, after its quote; return the end if there is none."""
    head = content.read(position, position + _MAX_GAP_BYTES)
    colon = head.lstrip(_BLANKS)
    value = colon[1:].lstrip(_BLANKS)
    is_string = colon.startswith(b":") and value.startswith(b'"')
    return position + len(head) - len(value) + 1 if is_string else len(content)
