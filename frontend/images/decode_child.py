"""What a decode worker runs: an encoded image, or its base64 -> pixels.

It is apart from the pool so that a worker starts without what only the pool needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from frontend.images.base64_text import decode_base64
from reward.decoding import IMAGE, DecodeLimits, decode, serve

if TYPE_CHECKING:
    from reward.preprocess import PreparedImage

BASE64: Final = b"b"
"""The kind of content that is base64 or a data: URI, as it stands in a JSON string."""


def decode_image(kind: bytes, content: bytes, limits: DecodeLimits) -> PreparedImage:
    """Do a worker's work.

    Raises:
        reward.errors.InvalidImage: too large, damaged, not of a known format, or no base64.
    """
    data = content if kind == IMAGE else decode_base64(content, limits.max_bytes)
    return decode(data, limits)


if __name__ == "__main__":
    serve(decode_image)
