"""Base64 as people send it -> bytes."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from frontend.images.errors import ImageUndecodable, too_large

if TYPE_CHECKING:
    from frontend.images.shared_bytes import Piece

_DATA_URI: Final = re.compile(r"data:(?P<type>[^,;]*)(?P<parameters>(?:;[^,;]*)*),", re.ASCII | re.IGNORECASE)
_SPACE: Final = re.compile(r"[ \t\r\n]+")


@dataclass(frozen=True)
class Base64Text:
    """Base64 or a data: URI; as a piece of a body, what stands between the quotes of a JSON string."""

    text: str | Piece


def decode_base64(source: Base64Text, max_bytes: int) -> bytes:
    """Decode base64 or a data: URI; line breaks and missing padding are accepted, foreign characters are not.

    Raises:
        ImageUndecodable: not base64.
        ImageTooLarge: more than `max_bytes` when decoded, found before decoding.
    """
    text = source.text if isinstance(source.text, str) else _json_string(source.text.read())
    if text[:5].lower() == "data:":
        match = _DATA_URI.match(text[:1024])
        if match is None or ";base64" not in match["parameters"].lower():
            raise ImageUndecodable("the data: URI is not of the form data:image/...;base64,...")
        text = text[match.end() :]
    text = _SPACE.sub("", text).rstrip("=")
    if len(text) * 3 // 4 > max_bytes:
        raise too_large(max_bytes)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageUndecodable("image_base64 is not valid base64") from error


def _json_string(content: bytes) -> str:
    try:
        text: str = json.loads(b'"' + content + b'"')
    except ValueError as error:
        raise ImageUndecodable("image_base64 is not a valid JSON string") from error
    return text
