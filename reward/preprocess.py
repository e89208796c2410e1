"""Encoded image bytes -> the uint8 pixels that the network sees.

They are bit for bit those of upstream on Pillow 12. Upstream (ImageReward/ImageReward.py,
`_transform`) resizes and crops in the image's own mode and converts to RGB last. The order matters:
converting first changes palette and alpha images by up to 178 of 255. As in upstream, EXIF
orientation is not applied, and only the first frame of an animation is read.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

# Pillow looks for a format among a few plugins first, and then imports all that it has, for 30 ms.
# Those of AVIF and WEBP are imported here, so that they are among the few.
from PIL import AvifImagePlugin, Image, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from reward.contract import IMAGE_SIZE, PIXELS
from reward.errors import ImageTooLarge, InvalidImage, UndecodableImage

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
"""The formats that are decoded, by REST and by Triton; content decides, never a file's name."""

MAX_PIXELS: Final = 50_000_000
"""Largest width x height x frames of a file, and largest width x height after its shorter side is
enlarged to 224.
"""

_MAX_SCANS: Final = 300
_MAX_SCANNED: Final = 40  # scans x width x height of a JPEG, in times of the pixels allowed
"""Encoders write a dozen scans, and each goes over the whole picture. A scan may take 50 bytes."""

_MAX_PROFILES: Final = 8
"""A PNG has one colour profile, and each costs 2 ms. If its four letters come more often, that is
no accident.
"""

# For a damaged file, Pillow's decoders raise whatever error their parsing happens to meet.
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

# Pillow multiplies colours by alpha before it resizes, and divides afterwards.
_PREMULTIPLIED: Final = {"LA": "La", "RGBA": "RGBa"}


@dataclass(frozen=True)
class PreparedImage:
    """One image, ready for the network, with facts about its file."""

    planes: bytearray
    """The red, the green and the blue bytes: 3 x 224 x 224."""
    width: int
    height: int
    format: str
    sha256: str  # of the encoded bytes

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Return the planes as the network's input, (3, 224, 224), without a copy."""
        # A process that only decodes never comes here, and starts in half the time without NumPy.
        import numpy as np  # noqa: PLC0415

        return np.frombuffer(self.planes, np.uint8).reshape(PIXELS.shape)


def prepare(
    data: bytes, *, max_pixels: int = MAX_PIXELS, on_size: Callable[[int], None] = lambda _: None
) -> PreparedImage:
    """Decode one encoded image and fit it to 224 x 224.

    `on_size` is called with the number of pixels when the header is read, before a pixel is
    decoded.

    Raises:
        ImageTooLarge: too many pixels by the header, all frames or scans together, or a shape so
            narrow that enlarging it would exceed `max_pixels`.
        UndecodableImage: no image, truncated or corrupt, or not one of `FORMATS`.
    """
    if not data:
        raise UndecodableImage("the image is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            # Pillow warns about metadata, but a damaged EXIF block does not change a pixel.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            _check_profiles(data)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                # To Pillow, a JPEG with further images inside (previews, depth) is an MPO; for
                # callers it is a JPEG.
                name = "JPEG" if image.format == "MPO" else str(image.format)
                frames = getattr(image, "n_frames", 1) if name != "JPEG" else 1
                on_size(_check_size(image.width, image.height, frames, max_pixels))
                if name == "JPEG":
                    _check_scans(data, image.width, image.height, max_pixels)
                digest = hashlib.sha256(data).hexdigest()
                return PreparedImage(fit(image), image.width, image.height, name, digest)
    except InvalidImage:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage(f"not an image in one of the formats {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image has more than the {max_pixels} pixels allowed") from error
    except _DECODER_FAILURES as error:
        raise UndecodableImage("the image is damaged, truncated or of an unsupported kind") from error


def fit(image: Image.Image) -> bytearray:
    """Resize the shorter side to 224, crop the centre, convert to RGB; return the three planes.

    The arithmetic of sizes and offsets is torchvision's `Resize` and `CenterCrop`
    (torchvision/transforms/functional.py).
    """
    size = _resized(image.width, image.height)
    if size != image.size:
        image = _resize(image, size)
    left = round((size[0] - IMAGE_SIZE) / 2)
    top = round((size[1] - IMAGE_SIZE) / 2)
    image = image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
    return bytearray().join(plane.tobytes() for plane in image.convert("RGB").split())


@cache
def digest() -> str:
    """Name what this machine's preprocessing does; scores with equal digests are comparable.

    It is measured once a process, in about 50 ms, as a hash of the pixels that the files in
    `probes/` give here. These have every format, and shapes and modes in which versions of Pillow
    have differed.
    """
    pixels = hashlib.sha256()
    for probe in sorted((files("reward") / "probes").iterdir(), key=lambda probe: probe.name):
        try:
            pixels.update(prepare(probe.read_bytes()).planes)
        except UndecodableImage:  # a Pillow that was built without a decoder
            pixels.update(probe.name.encode())
    return pixels.hexdigest()[:16]


def _check_profiles(data: bytes) -> None:
    if data.startswith(b"\x89PNG") and data.count(b"iCCP") > _MAX_PROFILES:
        raise UndecodableImage("the image has many colour profiles")


def _check_size(width: int, height: int, frames: int, max_pixels: int) -> int:
    """Return the number of pixels to be handled: of the picture, or of its enlargement."""
    if width * height > max_pixels:
        raise ImageTooLarge(f"the image is {width} x {height}; {max_pixels} pixels are allowed")
    resized_width, resized_height = _resized(width, height)
    if resized_width * resized_height > max_pixels:
        raise ImageTooLarge(
            f"the image is {width} x {height}, too narrow to be enlarged to {IMAGE_SIZE} pixels"
        )
    if width * height * frames > max_pixels:
        raise ImageTooLarge(
            f"the image is {frames} frames of {width} x {height}; {max_pixels} pixels are allowed"
        )
    return max(width * height, resized_width * resized_height)


def _check_scans(data: bytes, width: int, height: int, max_pixels: int) -> None:
    # These two bytes begin a scan and are never inside one. In metadata they may be there by
    # accident.
    scans = data.count(b"\xff\xda")
    if scans > min(_MAX_SCANS, _MAX_SCANNED * max_pixels // (width * height)):
        raise ImageTooLarge(f"the image is {scans} scans of {width} x {height}, too many to decode")


def _resized(width: int, height: int) -> tuple[int, int]:
    if width <= height:
        return IMAGE_SIZE, int(IMAGE_SIZE * height / width)
    return int(IMAGE_SIZE * width / height), IMAGE_SIZE


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize in two passes, width first, as Pillow 12 does in one call.

    Pillow 13 resizes the height first if that is less work. Pixels are rounded between the passes,
    so the result then differs by up to 13 of 255.
    """
    mode = image.mode
    image = image.convert(_PREMULTIPLIED.get(mode, mode))
    image = image.resize((size[0], image.height), Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.BICUBIC).convert(mode)
