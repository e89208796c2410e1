"""Resize pictures of every mode and shape with the Pillow on the path; print their digests.

    python -m tests.unit.reward.pillow_pixels ours|theirs

`ours` resizes as `reward.preprocess` does. `theirs` resizes in one call of Pillow, as upstream
does.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Final

import numpy as np
import PIL
from PIL import Image

from reward import preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODES: Final = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
SHAPES: Final = (
    *[(400, 1200), (300, 1000), (240, 760), (230, 3000), (40, 160), (7, 300), (1, 30)],  # tall
    *[(1200, 400), (1000, 300), (160, 40), (300, 7)],  # wide
    *[(256, 256), (100, 100), (223, 225), (333, 501), (501, 333)],  # about square
)


def picture(mode: str, width: int, height: int) -> Image.Image:
    """Make a picture with noise in every band."""
    random = np.random.default_rng([width, height])

    def band(high: int = 256, dtype: type = np.uint8) -> NDArray[np.generic]:
        return random.integers(0, high, (height, width)).astype(dtype)

    match mode:
        case "1" | "P":
            image = Image.fromarray(band()).convert(mode)
        case "I":
            image = Image.fromarray(band(70_000, np.int32))
        case "F":
            image = Image.fromarray(band(300, np.float32))
        case "I;16":
            image = Image.fromarray(band(300, np.uint16))
        case _:
            bands = Image.new(mode, (1, 1)).getbands()
            image = Image.merge(mode, [Image.fromarray(band()) for _ in bands])
    assert image.mode == mode
    return image


def main(whose: str) -> None:
    """Print Pillow's version and the digests as JSON."""
    digests = {}
    for mode in MODES:
        for width, height in SHAPES:
            image = picture(mode, width, height)
            size = preprocess._resized(width, height)
            resized = (
                preprocess._resize(image, size)
                if whose == "ours"
                else image.resize(size, Image.Resampling.BICUBIC)
            )
            digests[f"{mode} {width}x{height}"] = hashlib.sha256(resized.tobytes()).hexdigest()[:16]
    json.dump({"pillow": PIL.__version__, "digest": preprocess.digest(), "pixels": digests}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
