"""Pictures -> worse pictures: blur, noise, heavy JPEG, banding, or a crop that cuts the thing."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import NDArray

    from demo.render import Drawing

    Pixels = NDArray[np.uint8]  # (224, 224, 3)


def damage(drawing: Drawing, rng: Generator, kind: str) -> NDArray[np.uint8]:
    """Damage a drawing visibly, in one of the ways of `KINDS`."""
    return _DAMAGES[kind](drawing, rng)


def _blur(drawing: Drawing, rng: Generator) -> Pixels:
    image = Image.fromarray(drawing.pixels)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(3.0, 5.5))))


def _noise(drawing: Drawing, rng: Generator) -> Pixels:
    noise = rng.standard_normal(drawing.pixels.shape, np.float32) * np.float32(rng.uniform(28, 60))
    return np.clip(drawing.pixels + noise, 0, 255).astype(np.uint8)


def _jpeg(drawing: Drawing, rng: Generator) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(drawing.pixels).save(file, "JPEG", quality=int(rng.integers(3, 9)))
    return np.asarray(Image.open(file).convert("RGB"))


def _banding(drawing: Drawing, rng: Generator) -> Pixels:
    rows = np.arange(drawing.pixels.shape[0])
    period = rng.integers(8, 20)
    bands = np.where((rows + rng.integers(period)) % period < period // 2, 1.0, -1.0) * rng.uniform(20, 38)
    shape = (-1, 1, 1) if rng.random() < 0.5 else (1, -1, 1)
    return np.clip(drawing.pixels + bands.reshape(shape), 0, 255).astype(np.uint8)


def _crop(drawing: Drawing, rng: Generator) -> Pixels:
    """Move the picture toward the nearest border, until it cuts a thing near its middle."""
    item = drawing.placed[int(rng.integers(len(drawing.placed)))]
    size = drawing.pixels.shape[0]
    gaps = {(1, -1): item.x, (1, 1): size - item.x, (0, -1): item.y, (0, 1): size - item.y}
    side = min(gaps, key=lambda side: gaps[side])
    axis, sign = side
    shift = int(gaps[side] + item.radius * rng.uniform(-0.5, -0.05))
    pads = [(0, 0), (0, 0), (0, 0)]
    pads[axis] = (shift, 0) if sign > 0 else (0, shift)
    wide = np.pad(drawing.pixels, pads, mode="edge")
    kept = slice(0, size) if sign > 0 else slice(shift, shift + size)
    return wide[kept] if axis == 0 else wide[:, kept]


_DAMAGES: Final[dict[str, Callable[[Drawing, Generator], Pixels]]] = {
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "banding": _banding,
    "crop": _crop,
}
KINDS: Final = tuple(_DAMAGES)
