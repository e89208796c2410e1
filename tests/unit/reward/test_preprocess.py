"""Bytes become pixels in upstream's order of operations, or are refused clearly."""

from __future__ import annotations

import hashlib
import io
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reward import preprocess
from reward.errors import ImageTooLarge, UndecodableImage
from reward.preprocess import FORMATS, PreparedImage, digest, prepare
from tests.hostile.heavy_images import jpeg_of_scans, png_of_profiles
from tests.pictures import photograph


def _encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def test_shape_dtype_and_header() -> None:
    """Pixels are contiguous uint8 (3, 224, 224).

    Width, height, format and digest are those of the file.
    """
    data = photograph("coffee")
    prepared = prepare(data)
    assert prepared.pixels.shape == (3, 224, 224)
    assert prepared.pixels.dtype == np.uint8
    assert prepared.pixels.flags["C_CONTIGUOUS"]
    assert (prepared.width, prepared.height, prepared.format) == (600, 400, "JPEG")
    assert prepared.sha256 == hashlib.sha256(data).hexdigest()


def test_channels_come_first_in_rgb_order() -> None:
    """The first channel of a red image is full, the others are empty."""
    pixels = prepare(_encode(Image.new("RGB", (10, 10), (255, 0, 7)))).pixels
    assert [channel.min() for channel in pixels] == [255, 0, 7]


def test_a_palette_is_converted_after_resizing() -> None:
    """A palette image is resized in its own mode, by nearest neighbour, and then converted.

    So no colour appears that is not in the palette.
    """
    checks = Image.fromarray((np.indices((300, 300)).sum(axis=0) // 7 % 2).astype(np.uint8)).convert("P")
    checks.putpalette([255, 0, 0, 0, 0, 255] + [0, 0, 0] * 254)
    pixels = prepare(_encode(checks)).pixels.reshape(3, -1).T
    assert {tuple(pixel) for pixel in pixels.tolist()} == {(255, 0, 0), (0, 0, 255)}


def test_the_crop_is_the_centre() -> None:
    """The middle of a wide image remains."""
    image = Image.new("RGB", (672, 224))
    image.paste((0, 255, 0), (224, 0, 448, 224))
    pixels = prepare(_encode(image)).pixels
    assert (pixels[1] == 255).all()
    assert (pixels[0] == 0).all()


def test_an_image_of_the_right_size_is_left_alone() -> None:
    """An image of 224 x 224 pixels comes through bit for bit."""
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    np.testing.assert_array_equal(prepare(_encode(Image.fromarray(noise))).pixels, noise.transpose(2, 0, 1))


def test_the_first_frame_of_an_animation_is_read() -> None:
    """The later frames of an animation do not matter."""
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("white", "black")]
    data = _encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (prepare(data).pixels == 255).all()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        photograph("coffee")[:5000],
        photograph("coffee", "PNG")[:5000],
        photograph("coffee", "WEBP")[:5000],
        photograph("coffee", "GIF")[:5000],
    ],
)
def test_what_is_no_whole_image_is_undecodable(data: bytes) -> None:
    """Nothing, text, and truncated files of each format are refused.

    Half a picture is never scored.
    """
    with pytest.raises(UndecodableImage):
        prepare(data)


def test_formats_are_told_by_content() -> None:
    """A format outside `FORMATS` is refused though Pillow can read it.

    The message names the formats that are decoded.
    """
    for image_format in ("BMP", "TIFF", "PPM"):
        with pytest.raises(UndecodableImage, match="JPEG, PNG, WEBP, GIF, AVIF"):
            prepare(_encode(Image.new("RGB", (10, 10)), image_format))


def test_frames_count_as_pixels() -> None:
    """An animation is refused if its frames together are too large, even if the first is not."""
    frames = [Image.new("RGB", (200, 200), colour) for colour in ("white", "black", "red")]
    data = _encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageTooLarge, match="3 frames of 200 x 200; 119999 pixels are allowed"):
        prepare(data, max_pixels=119_999)
    assert prepare(data, max_pixels=120_000).width == 200


def test_too_many_pixels_are_refused_from_the_header() -> None:
    """The header alone decides about size.

    The file here has no body, which would otherwise be an error.
    """
    data = _encode(Image.new("1", (2000, 3000)))[:60]
    with pytest.raises(ImageTooLarge, match="2000 x 3000; 5999999 pixels are allowed"):
        prepare(data, max_pixels=5_999_999)
    with pytest.raises(UndecodableImage):
        prepare(data, max_pixels=6_000_000)


def test_scans_are_counted_before_they_are_decoded() -> None:
    """A JPEG that repeats its picture too often is refused.

    The larger it is, the fewer repetitions are allowed.
    """
    for scans, side in ((2400, 64), (100, 7000)):
        with pytest.raises(ImageTooLarge, match=f"scans of {side} x {side}, too many to decode"):
            prepare(jpeg_of_scans(scans, side))
    for scans, side in ((0, 7000), (250, 64)):
        assert prepare(jpeg_of_scans(scans, side)).width == side


def test_colour_profiles_are_counted() -> None:
    """A PNG has one colour profile. With many, it is refused, because each costs time."""
    assert prepare(png_of_profiles(1)).width == 8
    with pytest.raises(UndecodableImage, match="many colour profiles"):
        prepare(png_of_profiles(1000))


def test_the_size_is_told_before_a_pixel_is_decoded() -> None:
    """The size is told even for a file that is cut short.

    A sliver counts with the size to which it is enlarged.
    """
    told: list[int] = []
    with pytest.raises(UndecodableImage):
        prepare(photograph("coffee")[:20_000], on_size=told.append)
    prepare(_encode(Image.new("L", (1, 10))), on_size=told.append)
    assert told == [600 * 400, 224 * 2240]


def test_a_sliver_is_refused_before_it_is_enlarged() -> None:
    """An image of 1 x 4000 is refused: it would become 224 x 896,000, which is 200 million pixels.

    An image of 1 x 900 is scored as upstream scores it.
    """
    with pytest.raises(ImageTooLarge, match="too narrow"):
        prepare(_encode(Image.new("RGB", (1, 4000))))
    assert prepare(_encode(Image.new("RGB", (1, 900)))).height == 900


def test_the_digest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is the same everywhere, until somebody changes a pixel.

    Every published version carries it.
    """
    assert digest() == "2ae4bcbba856047c"

    def nearest(image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image.resize(size, Image.Resampling.NEAREST)

    monkeypatch.setattr(preprocess, "_resize", nearest)
    digest.cache_clear()
    try:
        assert digest() != "2ae4bcbba856047c"
    finally:
        digest.cache_clear()


def test_every_probe_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a probe for every format.

    If a decoder is missing, or gives other pixels, the digest is another.
    """
    probes = sorted((files("reward") / "probes").iterdir(), key=lambda probe: probe.name)
    assert {prepare(probe.read_bytes()).format for probe in probes} == set(FORMATS)
    known = digest()
    for broken in probes:

        def failing(data: bytes, broken: bytes = broken.read_bytes()) -> PreparedImage:
            if data == broken:
                raise UndecodableImage("no decoder")
            return prepare(data)

        monkeypatch.setattr(preprocess, "prepare", failing)
        digest.cache_clear()
        assert digest() != known
    digest.cache_clear()
