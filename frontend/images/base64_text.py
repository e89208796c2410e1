"""Base64 as people send it -> bytes."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Final

from reward.errors import ImageTooLarge, UndecodableImage

_DATA_URI: Final = re.compile(rb"data:[^,;]*(?:;[^,;]*)*;base64,", re.IGNORECASE)
_MAX_HEAD_BYTES: Final = 1024
_SPACE: Final = b" \t\r\n"


def decode_base64(content: bytes, max_bytes: int) -> bytes:
    """Decode base64 or a data: URI between the quotes of a JSON string.

    Line breaks and missing padding are accepted, but nothing else is.

    Raises:
        UndecodableImage: not base64.
        ImageTooLarge: more than `max_bytes` when decoded, found before decoding.
    """
    try:
        text = json.loads(b'"' + content + b'"').encode("ascii", "replace")
    except ValueError as error:
        raise UndecodableImage("the image's base64 is not a valid JSON string") from error
    if text[:5].lower() == b"data:":
        match = _DATA_URI.match(text[:_MAX_HEAD_BYTES])
        if match is None:
            raise UndecodableImage("the data: URI is not of the form data:image/...;base64,...")
        text = text[match.end() :]
    text = text.translate(None, _SPACE).rstrip(b"=")
    if len(text) * 3 // 4 > max_bytes:
        raise ImageTooLarge(f"the image has more than the {max_bytes} bytes allowed")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise UndecodableImage("the image is not valid base64") from error
