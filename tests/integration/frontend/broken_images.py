"""Valid images of every allowed format, and seeded ways to break them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
_EDGES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def valid(format_: str) -> list[bytes]:
    """Return small images that together use what a format has.

    That is modes, alpha, interlacing, progression and frames.
    """
    rgb = _picture((48, 40))
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    more = [_picture((48, 40), seed) for seed in (1, 2)]
    frames = {"save_all": True, "append_images": more, "duration": 50}
    match format_:
        case "JPEG":
            exif = Image.Exif()
            exif[0x0112] = 6
            return [
                _save(rgb, "JPEG"),
                _save(rgb, "JPEG", progressive=True, subsampling=0, exif=exif, dpi=(72, 72), comment=b"x"),
                _save(rgb.convert("L"), "JPEG", optimize=True),
                _save(rgb.convert("CMYK"), "JPEG", restart_marker_blocks=2),
                _save(rgb, "MPO", save_all=True, append_images=more),
            ]
        case "PNG":
            return [
                _save(rgb, "PNG"),
                _save(rgba, "PNG"),
                _save(rgb.quantize(16), "PNG", transparency=3),
                _save(rgb.convert("1"), "PNG"),
                _save(Image.fromarray(np.asarray(rgb)[:, :, 0].astype(np.uint16) * 257), "PNG"),
                _save(rgba, "PNG", **frames),
            ]
        case "WEBP":
            return [
                _save(rgb, "WEBP"),
                _save(rgba, "WEBP", quality=40, exif=b"Exif\0\0II*\0"),
                _save(rgba, "WEBP", lossless=True),
                _save(rgba, "WEBP", **frames),
            ]
        case "GIF":
            return [
                _save(rgb, "GIF"),
                _save(rgb.quantize(8), "GIF", transparency=2, interlace=1, comment=b"x"),
                _save(rgb, "GIF", disposal=2, loop=0, **frames),
            ]
    return [
        _save(rgb, "AVIF", speed=10),
        _save(rgba, "AVIF", speed=10, subsampling="4:4:4"),
        _save(rgb, "AVIF", speed=10, **frames),
    ]


def mutant(originals: list[bytes], others: list[bytes], seed: str) -> bytes:
    """Break one of `originals` in one to four ways; the same seed breaks it in the same way."""
    chance = random.Random(seed)
    data = bytearray(chance.choice(originals))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice(_WAYS)(data, chance, others)
    if data.startswith(b"\x89PNG") and chance.random() < 0.7:
        return with_png_checksums(bytes(data))
    return bytes(data)


def with_png_checksums(data: bytes) -> bytes:
    """Correct every chunk's checksum, so that damage is not found by the checksum already."""
    out = bytearray(data)
    at = 8
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


def _picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _save(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def _place(data: bytearray, chance: random.Random) -> int:
    """Choose a place to damage; the front, where the headers are, is preferred."""
    size = max(len(data), 1)
    return chance.randrange(min(size, 64)) if chance.random() < 0.4 else chance.randrange(size)


def _flip_bits(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    for _count in range(chance.choice((1, 1, 3, 20))):
        if data:
            data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set_bytes(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    at = _place(data, chance)
    data[at : at + chance.randrange(1, 9)] = chance.randbytes(chance.randrange(1, 9))


def _set_number(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    at, width = _place(data, chance), chance.choice((1, 2, 3, 4))
    number = chance.choice(_EDGES) & (256**width - 1)
    order = "big" if chance.random() < 0.5 else "little"
    data[at : at + width] = number.to_bytes(width, order)


def _truncate(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    del data[_place(data, chance) :]


def _delete(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    at = _place(data, chance)
    del data[at : at + chance.randrange(1, 40)]


def _repeat(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    at = _place(data, chance)
    data[at:at] = data[at : at + chance.randrange(1, 200)] * chance.choice((1, 2, 50))


def _blank(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    at = _place(data, chance)
    run = data[at : at + chance.randrange(1, 60)]
    data[at : at + len(run)] = bytes([chance.choice((0, 0xFF))]) * len(run)


def _splice(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    other = chance.choice(others)
    start = chance.randrange(len(other))
    data[_place(data, chance) :] = other[start : start + chance.randrange(1, 4000)]


_WAYS: Final[tuple[Callable[[bytearray, random.Random, list[bytes]], None], ...]] = (
    _flip_bits,
    _flip_bits,
    _set_bytes,
    _set_number,
    _set_number,
    _truncate,
    _delete,
    _repeat,
    _blank,
    _splice,
)
