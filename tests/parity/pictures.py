"""Image files of every mode and of odd shapes, made from photographs that scikit-image ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from skimage import data

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def write_pictures(directory: Path) -> dict[str, Path]:
    """Write the files; return their paths by a word for what each one is."""
    photographs = {
        name: Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")
    }
    astronaut, coffee, cat = photographs["astronaut"], photographs["coffee"], photographs["chelsea"]
    alpha = Image.fromarray(_ramp(*astronaut.size))
    transparent = astronaut.copy()
    transparent.putalpha(alpha)
    grey_alpha = Image.merge("LA", (coffee.convert("L"), Image.fromarray(_ramp(*coffee.size))))
    palette = cat.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    sixteen = np.asarray(coffee.convert("L")).astype(np.uint16) * 257
    files: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "RGB": (astronaut, "png", {}),
        "RGB JPEG": (coffee, "jpg", {"quality": 90}),
        "RGB WebP": (cat, "webp", {"quality": 80}),
        "RGB JPEG with EXIF orientation": (photographs["rocket"], "jpg", {"exif": _rotated()}),
        "RGBA": (transparent, "png", {}),
        "L": (astronaut.convert("L"), "png", {}),
        "L JPEG": (coffee.convert("L"), "jpg", {}),
        "LA": (grey_alpha, "png", {}),
        "P": (palette, "png", {}),
        "P with transparency": (palette, "png", {"transparency": 3}),
        "P GIF": (palette, "gif", {}),
        "1": (cat.convert("1"), "png", {}),
        "CMYK JPEG": (astronaut.convert("CMYK"), "jpg", {}),
        "I;16": (Image.fromarray(sixteen), "png", {}),
        "odd": (coffee.resize((317, 223)), "png", {}),
        "224": (cat.resize((224, 224)), "png", {}),
        "225 x 224": (cat.resize((225, 224)), "png", {}),
        "tiny": (astronaut.resize((5, 3)), "png", {}),
        "one pixel": (Image.new("RGB", (1, 1), (200, 30, 90)), "png", {}),
        "tall": (coffee.resize((41, 903)), "png", {}),
        "wide": (astronaut.resize((1201, 50)), "png", {}),
        "tiny palette": (palette.resize((7, 9)), "png", {}),
        "tall RGBA": (transparent.resize((31, 400)), "png", {}),
        "tall photograph": (coffee.resize((400, 1200)), "jpg", {}),
        "tall photograph RGBA": (transparent.resize((300, 1000)), "webp", {"lossless": True}),
        "tall photograph LA": (grey_alpha.resize((230, 3000)), "png", {}),
        "tall CMYK": (astronaut.convert("CMYK").resize((300, 910)), "jpg", {}),
        "wide photograph": (coffee.resize((1200, 300)), "avif", {}),
    }
    paths = {}
    for number, (kind, (image, suffix, options)) in enumerate(files.items()):
        paths[kind] = directory / f"{number:02d}.{suffix}"
        image.save(paths[kind], **options)  # type: ignore[arg-type] # each format's own options
    return paths


def _ramp(width: int, height: int) -> NDArray[np.uint8]:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def _rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: rotate by 90 degrees, which upstream does not
    return exif
