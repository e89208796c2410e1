"""Encoded image bytes -> the uint8 pixels that the network sees, bit-exact with upstream.

Upstream (ImageReward/ImageReward.py, `_transform`) resizes and crops in the image's own mode and converts
to RGB last. The order matters: converting first changes palette and alpha images by up to 178 of 255.
EXIF orientation is not applied there, nor here. Only the first frame of an animation is read.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from reward.contract import IMAGE_SIZE
from reward.errors import ImageTooLarge, InvalidImage, UndecodableImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
"""What is decoded by default; the REST door allows fewer."""

MAX_PIXELS: Final = 50_000_000
"""Largest width x height, of the file and of its enlargement to a shorter side of 224."""

# Pillow's decoders signal damage by whatever their parsing tripped over.
_DECODER_FAILURES: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)

# Part of what a score depends on, with the Pillow version: raise it whenever a pixel may change.
_RECIPE: Final = "pil-bicubic-224-own-mode, centre-crop, rgb; 1"


@dataclass(frozen=True)
class PreparedImage:
    """One image, ready for the network, and what its header said."""

    pixels: NDArray[np.uint8]  # (3, 224, 224)
    width: int
    height: int
    format: str


def digest() -> str:
    """Name the preprocessing: two scores are comparable where it is equal."""
    return hashlib.sha256(_RECIPE.encode()).hexdigest()[:16]


def prepare(
    data: bytes,
    *,
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int = MAX_PIXELS,
    count_frames: bool = False,
) -> PreparedImage:
    """Decode one encoded image and fit it to 224 x 224.

    With `count_frames`, `max_pixels` holds for all frames of an animation together.

    Raises:
        ImageTooLarge: by the header, or because its shape would have to be enlarged beyond `max_pixels`.
        UndecodableImage: no image, truncated or corrupt, or not one of `formats`.
    """
    if not data:
        raise UndecodableImage("the image is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            # Its complaints about metadata: a damaged EXIF block does not change a pixel.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=formats) as image:
                _check_size(image.width, image.height, max_pixels)
                if count_frames:
                    _check_frames(image, max_pixels)
                return PreparedImage(fit(image), image.width, image.height, str(image.format))
    except InvalidImage:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage(f"not an image in one of the formats {', '.join(formats)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image has more than the {max_pixels} pixels allowed") from error
    except _DECODER_FAILURES as error:
        raise UndecodableImage("the image is damaged, truncated or of an unsupported kind") from error


def fit(image: Image.Image) -> NDArray[np.uint8]:
    """Resize the shorter side to 224, crop the centre, convert to RGB: (3, 224, 224) uint8.

    The arithmetic of sizes and offsets is torchvision's `Resize` and `CenterCrop`
    (torchvision/transforms/functional.py).
    """
    width, height = _resized(image.width, image.height)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left = round((width - IMAGE_SIZE) / 2)
    top = round((height - IMAGE_SIZE) / 2)
    image = image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
    rgb = np.asarray(image.convert("RGB"))  # (224, 224, 3)
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(f"the image is {width} x {height}; {max_pixels} pixels are allowed")
    resized_width, resized_height = _resized(width, height)
    if resized_width * resized_height > max_pixels:
        raise ImageTooLarge(
            f"the image is {width} x {height}, too narrow to be enlarged to {IMAGE_SIZE} pixels"
        )


def _check_frames(image: Image.Image, max_pixels: int) -> None:
    # The further images of an MPO (previews, depth) are not frames; Pillow opens it as JPEG.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if image.width * image.height * frames > max_pixels:
        raise ImageTooLarge(
            f"the image is {frames} frames of {image.width} x {image.height}; {max_pixels} pixels are allowed"
        )


def _resized(width: int, height: int) -> tuple[int, int]:
    if width <= height:
        return IMAGE_SIZE, int(IMAGE_SIZE * height / width)
    return int(IMAGE_SIZE * width / height), IMAGE_SIZE
