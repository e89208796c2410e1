"""Broken images, bombs and polyglots: each gets its error code, and memory stays bounded.

AESTHETIC_FUZZ_IMAGES sets how many broken images there are in all. AESTHETIC_FUZZ_SEED sets which
ones.
"""

from __future__ import annotations

import asyncio
import collections
import io
import os
import resource
import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import reward.errors
from frontend.images.decode import DecodePool
from frontend.images.errors import ImageTooLarge, ImageUndecodable
from reward.decoding import DecodeLimits
from reward.preprocess import PreparedImage, prepare
from tests.integration.frontend.broken_images import FORMATS, mutant, valid, with_png_checksums

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontend.errors import ServiceError

IMAGES: Final = int(os.environ.get("AESTHETIC_FUZZ_IMAGES", "10000"))
SEED: Final = os.environ.get("AESTHETIC_FUZZ_SEED", "0")
LIMITS: Final = DecodeLimits(max_pixels=4_000_000, memory_bytes=256 * 2**20)
GROWTH_BYTES: Final = 200 * 2**20  # of this process: 4 million pixels in four bytes each, a few times over


def mutants(format_: str, count: int) -> list[bytes]:
    originals = valid(format_)
    others = [data for other in FORMATS for data in valid(other)]
    return [mutant(originals, others, f"{SEED}/{format_}/{index}") for index in range(count)]


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("format_", FORMATS)
def test_originals_are_valid(format_: str) -> None:
    """The images are valid before they are broken, and counting frames changes no pixel."""
    for data in valid(format_):
        decoded = prepare(data, max_pixels=LIMITS.max_pixels)
        assert decoded.format == format_
        np.testing.assert_array_equal(decoded.pixels, prepare(data).pixels)


@pytest.mark.parametrize("format_", FORMATS)
def test_broken_images(format_: str) -> None:
    """A broken image is decoded or refused as invalid, and nothing else happens.

    Memory stays bounded.
    """
    before = peak_bytes()
    seen: collections.Counter[str] = collections.Counter()
    for index, data in enumerate(mutants(format_, IMAGES // len(FORMATS))):
        try:
            decoded = prepare(data, max_pixels=LIMITS.max_pixels)
        except reward.errors.InvalidImage as error:
            seen[type(error).__name__] += 1
        except Exception as error:  # noqa: BLE001
            pytest.fail(f"mutant {SEED}/{format_}/{index}: {error!r}")
        else:
            seen["decoded"] += 1
            assert decoded.pixels.shape == (3, 224, 224)
    assert seen["UndecodableImage"] > 0, "the mutations break something"
    assert seen["decoded"] > 0, "the mutations reach beyond the header"
    assert peak_bytes() - before < GROWTH_BYTES


async def test_broken_images_through_the_pool() -> None:
    """Through the workers, too, each broken image gets its code, and no worker is lost."""
    lost: list[bool] = []
    images = [data for format_ in FORMATS for data in mutants(format_, 40)]
    async with DecodePool(LIMITS, on_worker_lost=lambda: lost.append(True)) as pool:
        answers = await asyncio.gather(
            *(pool.decode(data, timeout_s=120) for data in images), return_exceptions=True
        )
    assert {type(answer) for answer in answers} <= {PreparedImage, ImageTooLarge, ImageUndecodable}
    assert sum(isinstance(answer, PreparedImage) for answer in answers) > 0
    assert lost == []


# --- Bombs ----------------------------------------------------------------------------------------


def png(width: int, height: int, rows: bytes, *chunks: tuple[bytes, bytes], depth: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    out = b"".join(struct.pack(">I", len(data)) + name + data + bytes(4) for name, data in body)
    return with_png_checksums(b"\x89PNG\r\n\x1a\n" + out)


def gif(width: int, height: int, frames: int, frame: tuple[int, int] | None = None) -> bytes:
    inner = frame or (width, height)
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    one = b"\x2c" + struct.pack("<HHHH", 0, 0, *inner) + b"\0\x02\x02\x44\x01\0"
    return head + one * frames + b";"


def webp(width: int, height: int, *, frames: int = 0) -> bytes:
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "WEBP", lossless=True)
    bitstream = image.getvalue()[12:]

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    def three(number: int) -> bytes:
        return number.to_bytes(3, "little")

    body = chunk(b"VP8X", bytes([2 if frames else 0, 0, 0, 0]) + three(width - 1) + three(height - 1))
    if frames:
        body += chunk(b"ANIM", bytes(6))
        body += chunk(b"ANMF", three(0) * 2 + three(7) * 2 + three(20) + b"\0" + bitstream) * frames
    else:
        body += bitstream
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG")
    data = file.getvalue()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def avif(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "AVIF", speed=10)
    data = file.getvalue()
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def text_bomb() -> bytes:
    text = zlib.compress(bytes(200 * 2**20), 9)
    return png(8, 8, bytes(72), (b"zTXt", b"Comment\0\0" + text), (b"iCCP", b"x\0\0" + text))


MB: Final = 1_000_000
BOMBS: Final[dict[str, tuple[Callable[[], bytes], type[ServiceError] | None]]] = {
    "png of 50 million by 1": (lambda: png(50 * MB, 1, b""), ImageTooLarge),
    "png of 30000 squared": (lambda: png(30_000, 30_000, bytes(30 * MB)), ImageTooLarge),
    "png of 2**31 - 1 squared": (lambda: png(2**31 - 1, 2**31 - 1, b""), ImageTooLarge),
    "png just above": (lambda: png(2001, 2000, bytes(2002 * 2000)), ImageTooLarge),
    "png at the limit": (lambda: png(2000, 2000, bytes(2001 * 2000)), None),
    "png that unfolds beyond its size": (lambda: png(64, 64, bytes(100 * MB)), None),
    "png too small inside": (lambda: png(2000, 2000, b"\0"), ImageUndecodable),
    "png with compressed text": (text_bomb, ImageUndecodable),
    "png of zero": (lambda: png(0, 0, b""), ImageUndecodable),
    "png that would be enlarged": (lambda: png(1, 2_000_000, bytes(4 * MB)), ImageTooLarge),
    "gif of 65535 squared": (lambda: gif(65_535, 65_535, 1), ImageTooLarge),
    "gif of many frames": (lambda: gif(1000, 1000, 5000), ImageTooLarge),
    "gif of many small frames": (lambda: gif(1, 1, 200_000), None),
    "gif of too many small frames": (lambda: gif(8, 8, 200_000), ImageTooLarge),
    "gif with a frame beyond its screen": (lambda: gif(8, 8, 1, (60_000, 60_000)), ImageTooLarge),
    "gif with a later frame beyond its screen": (lambda: gif(1, 1, 1)[:-1] + gif(1, 1, 1, (9999, 9999))[19:], None),
    "webp of 16383 squared": (lambda: webp(16_383, 16_383), ImageTooLarge),
    "webp of many frames": (lambda: webp(1000, 1000, frames=400), ImageTooLarge),
    "webp canvas with a small image": (lambda: webp(1000, 1000), ImageUndecodable),
    "jpeg of 65535 squared": (lambda: jpeg(65_535, 65_535), ImageTooLarge),
    "jpeg of 65500 by 100": (lambda: jpeg(65_500, 100), ImageTooLarge),
    "jpeg too small inside": (lambda: jpeg(2000, 2000), None),
    "avif of 65535 squared": (lambda: avif(65_535, 65_535), ImageUndecodable),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
async def test_bombs(name: str) -> None:
    """A small file that announces or decompresses to too much gets its code at a bounded cost."""
    make, expected = BOMBS[name]
    data = make()
    before = peak_bytes()
    async with DecodePool(LIMITS) as pool:
        if expected is None:
            assert (await pool.decode(data, timeout_s=60)).pixels.shape == (3, 224, 224)
        else:
            with pytest.raises(expected) as error:
                await pool.decode(data, timeout_s=60)
            assert type(error.value) is expected
    assert peak_bytes() - before < GROWTH_BYTES


# --- Polyglots and impostors ----------------------------------------------------------------------


def polyglots() -> dict[str, tuple[bytes, str | None]]:
    jpeg_, png_, gif_, webp_, avif_ = (
        valid(format_)[0] for format_ in ("JPEG", "PNG", "GIF", "WEBP", "AVIF")
    )
    archive = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "<script>alert(1)</script><?php system($_GET[0]) ?>")
    scripted = io.BytesIO()
    Image.new("RGB", (8, 8)).save(scripted, "PNG", pnginfo=info)
    return {
        "jpeg and zip": (jpeg_ + archive, "JPEG"),
        "gif and zip": (gif_ + archive, "GIF"),
        "png and html": (png_ + b"<html><script>alert(1)</script>", "PNG"),
        "png with a script": (scripted.getvalue(), "PNG"),
        "png and jpeg": (png_ + jpeg_, "PNG"),
        "webp and pdf": (webp_ + b"%PDF-1.7\n", "WEBP"),
        "avif and zip": (avif_ + archive, "AVIF"),
        "gif and javascript": (b"GIF89a/*" + gif_[8:] + b"*/=alert(1)", None),
        "pdf and jpeg": (b"%PDF-1.7\n" + jpeg_, None),
        "zip and png": (archive + png_, None),
        "html": (b"<!doctype html><img src=x>", None),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', None),
        "mvg": (b"push graphic-context\nimage over 0,0 0,0 'https://example.com/x.png'\n", None),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(w) (%pipe%id) file", None),
        "pdf": (b"%PDF-1.7\n1 0 obj\n", None),
        "wave": (b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28), None),
        "mp4": (struct.pack(">I", 24) + b"ftypisom" + bytes(4) + b"isomavif" + bytes(64), None),
        "heic": (avif_.replace(b"avif", b"heic"), None),
        "icon with png": (b"\0\0\1\0\1\0\x08\x08\0\0\1\0\x20\0" + struct.pack("<II", len(png_), 22) + png_, None),
        "bmp": (b"BM" + bytes(60), None),
        "byte order mark": (b"\xef\xbb\xbf" + png_, None),
        "gif cut in its second frame": (gif(1, 1, 1)[:-1] + b"\x2c", None),
        "one byte": (b"\xff", None),
        "zeros": (bytes(4096), None),
    }  # fmt: skip


async def test_polyglots() -> None:
    """The first bytes of a file decide what it is, whatever else it is.

    What is no allowed image is refused.
    """
    async with DecodePool(LIMITS) as pool:
        for name, (data, expected) in polyglots().items():
            try:
                got: str | None = (await pool.decode(data, timeout_s=60)).format
            except (ImageUndecodable, ImageTooLarge):
                got = None
            assert got == expected, name
