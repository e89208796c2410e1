"""Small files that cost a decoder much: valid, or nearly so, and not large by their headers."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def _saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def jpeg_of_scans(scans: int, side: int = 7000) -> bytes:
    """A progressive JPEG that repeats all its blocks, again and again, for at most 2 KB each."""
    plain = _saved(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + last * scans + b"\xff\xd9"


def jpeg_of_markers(count: int) -> bytes:
    """A JPEG with empty comments before its picture."""
    plain = _saved(Image.new("RGB", (8, 8)), "JPEG")
    return plain[:2] + b"\xff\xfe\x00\x02" * count + plain[2:]


def jpeg_of_padding(count: int) -> bytes:
    """A JPEG with fill bytes before its first marker."""
    plain = _saved(Image.new("RGB", (8, 8)), "JPEG")
    return plain[:2] + b"\xff" * count + plain[2:]


def jpeg_of_rubbish(count: int) -> bytes:
    """A JPEG with bytes between its segments that are no markers."""
    plain = _saved(Image.new("RGB", (8, 8)), "JPEG")
    return plain[:2] + b"\xff\x00" * (count // 2) + plain[2:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(before: bytes = b"", after: bytes = b"") -> bytes:
    rows = zlib.compress((b"\0" + bytes(24)) * 8)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + before
        + _chunk(b"IDAT", rows)
        + after
        + _chunk(b"IEND", b"")
    )


def png_of_profiles(count: int) -> bytes:
    """A PNG with colour profiles that inflate to almost a megabyte each."""
    return _png(_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**20 - 100), 9)) * count)


def png_of_texts(count: int) -> bytes:
    """A PNG with texts that inflate to almost a megabyte each."""
    return _png(_chunk(b"zTXt", b"t\0\0" + zlib.compress(bytes(2**20 - 100), 9)) * count)


def png_of_chunks(count: int) -> bytes:
    """A PNG with empty chunks of an unknown kind."""
    return _png(_chunk(b"abCd", b"") * count)


def png_of_empty_data(count: int) -> bytes:
    """A PNG with empty parts of its picture before the real one."""
    return _png(_chunk(b"IDAT", b"") * count)


def png_of_trailing_chunks(count: int) -> bytes:
    """A PNG with empty chunks behind its picture."""
    return _png(after=_chunk(b"abCd", b"") * count)


def gif_of_frames(count: int) -> bytes:
    """A GIF of one-pixel frames."""
    plain = _saved(Image.new("P", (1, 1)), "GIF")
    start = plain.index(b"\x2c")
    return plain[:start] + plain[start:-1] * count + b";"


def gif_of_comment_bytes(count: int) -> bytes:
    """A GIF with one comment, in blocks of one byte."""
    plain = _saved(Image.new("P", (1, 1)), "GIF")
    start = plain.index(b"\x2c")
    return plain[:start] + b"\x21\xfe" + b"\x01x" * count + b"\0" + plain[start:]


def gif_of_comments(count: int) -> bytes:
    """A GIF with many comments of one byte."""
    plain = _saved(Image.new("P", (1, 1)), "GIF")
    start = plain.index(b"\x2c")
    return plain[:start] + b"\x21\xfe\x01x\0" * count + plain[start:]


def gif_of_data_bytes(count: int) -> bytes:
    """A GIF whose picture ends in blocks of one byte."""
    plain = _saved(Image.new("P", (1, 1)), "GIF")
    return plain[:-2] + b"\x01\0" * count + b"\0;"


def webp_of_frames(count: int) -> bytes:
    """A WebP of one-pixel frames."""
    still = _saved(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    frame = bytes(12) + b"\x01\0\0\0" + still
    chunk = b"ANMF" + struct.pack("<I", len(frame)) + frame
    body = (
        b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02" + bytes(9) + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    )
    body += chunk * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_of_chunks(count: int) -> bytes:
    """A WebP with empty chunks of an unknown kind."""
    still = _saved(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(10) + still + (b"abcd" + bytes(4)) * count
    return b"RIFF" + struct.pack("<I", len(body)) + body
