"""Scenes -> pictures, in five styles on four kinds of ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.layout import place
from reward.contract import IMAGE_SIZE

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from demo.layout import Placed
    from demo.scenes import Scene

    Canvas = NDArray[np.float32]  # (224, 224, 3), 0 to 255
    Polygon = NDArray[np.float64]  # (points, 2): x to the right, y down; within the unit circle

STYLES: Final = ("flat", "outlined", "shaded", "hatched", "sketched")
GROUNDS: Final = ("plain", "gradient", "clouds", "stripes")

_RGB: Final = {
    "red": (214, 36, 36),
    "orange": (247, 134, 18),
    "yellow": (247, 222, 40),
    "green": (36, 158, 66),
    "blue": (36, 88, 214),
    "purple": (136, 46, 168),
    "black": (22, 22, 25),
    "white": (246, 246, 246),
}
_FINER: Final = 2  # drawn so many times larger and averaged: smooth edges


@dataclass(frozen=True)
class Drawing:
    """A picture and what stands where in it."""

    pixels: NDArray[np.uint8]  # (224, 224, 3)
    placed: tuple[Placed, ...]
    covered: NDArray[np.float32]  # (224, 224), share of each pixel on which a thing stands


def draw(scene: Scene, rng: Generator, style: str | None = None) -> Drawing:
    """Draw a scene on a random ground, in a random style if none is given."""
    placed = place(scene, rng)
    colours = [_vary(_RGB[thing.colour], rng) for thing in scene.things]
    canvas = _ground(colours, rng)
    style = style or str(rng.choice(STYLES))
    by_thing = dict(zip(scene.things, colours, strict=True))
    covered = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 1), np.float32)
    for item in placed:
        _paint(canvas, covered, item, by_thing[item.thing], style, rng)
    return Drawing(np.clip(canvas, 0, 255).astype(np.uint8), tuple(placed), covered[:, :, 0])


def _vary(colour: tuple[int, int, int], rng: Generator) -> NDArray[np.float64]:
    varied: NDArray[np.float64] = np.clip(np.array(colour) + rng.uniform(-12, 12, 3), 0, 255)
    return varied


def _ground(colours: list[NDArray[np.float64]], rng: Generator) -> Canvas:
    while True:
        base = rng.uniform(75, 215) + rng.uniform(-16, 16, 3)
        if all(np.linalg.norm(base - colour) > 85 for colour in colours):
            break
    canvas = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    canvas[:] = base
    kind = rng.choice(GROUNDS)
    steps = np.linspace(-1, 1, IMAGE_SIZE, dtype=np.float32)
    if kind == "gradient":
        slope = steps[:, None] * rng.uniform(-18, 18) + steps[None, :] * rng.uniform(-18, 18)
        canvas += slope[:, :, None]
    if kind == "clouds":
        coarse = rng.uniform(0, 255, (6, 6)).astype(np.uint8)
        clouds = Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        canvas += (np.asarray(clouds, np.float32)[:, :, None] / 255 - 0.5) * 30
    if kind == "stripes":
        waves = np.sin(steps * rng.uniform(10, 30)) * 6
        canvas += waves[:, None, None] if rng.random() < 0.5 else waves[None, :, None]
    return canvas


def _paint(
    canvas: Canvas,
    covered: NDArray[np.float32],
    item: Placed,
    colour: NDArray[np.float64],
    style: str,
    rng: Generator,
) -> None:
    half = int(item.radius * 1.2) + 4
    left, top = int(item.x) - half, int(item.y) - half
    mask = _mask(item, (left, top), 2 * half, rough=style == "sketched", rng=rng)
    fill: NDArray[np.float32] = np.empty((2 * half, 2 * half, 3), np.float32)
    fill[:] = colour
    across = np.linspace(-1, 1, 2 * half, dtype=np.float32)
    if style == "shaded":
        angle = rng.uniform(0, 2 * np.pi)
        light = across[None, :] * np.cos(angle) + across[:, None] * np.sin(angle)
        fill *= (1 + 0.22 * light)[:, :, None]
    if style == "hatched":
        waves = np.sin((across[None, :] + across[:, None] * rng.choice([-1, 1])) * half * 0.8)
        fill += (14 * waves)[:, :, None]
    if style == "sketched":
        fill += rng.standard_normal((2 * half, 2 * half, 1)).astype(np.float32) * 7
    if style == "outlined":
        inner = mask.filter(ImageFilter.MinFilter(2 * _FINER + 1)).filter(ImageFilter.MinFilter(3))
        edge = np.float32(235 if colour.mean() < 60 else 30)
        alpha = _alpha(inner, half)
        fill = fill * alpha + edge * (1 - alpha)
    alpha = _alpha(mask, half)
    _blend(canvas, fill, alpha, (left, top))
    _blend(covered, np.ones_like(alpha), alpha, (left, top))


def _mask(item: Placed, corner: tuple[int, int], size: int, *, rough: bool, rng: Generator) -> Image.Image:
    image = Image.new("L", (size * _FINER, size * _FINER))
    pen = ImageDraw.Draw(image)
    angle = rng.uniform(-0.17, 0.17)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array([item.x - corner[0], item.y - corner[1]])
    for polygon, value in zip(_OUTLINES[item.thing.shape], (255, 0), strict=True):
        if polygon is None:
            continue
        for _ in range(2 if rough and value else 1):
            shaken = polygon + rng.normal(0, 0.025, polygon.shape) if rough else polygon
            points = ((shaken @ turn) * item.radius + centre) * _FINER
            pen.polygon([(float(x), float(y)) for x, y in points], fill=value)
    return image


def _alpha(mask: Image.Image, half: int) -> NDArray[np.float32]:
    small = mask.resize((2 * half, 2 * half), Image.Resampling.BOX)
    return (np.asarray(small, np.float32) / 255)[:, :, None]  # (2 half, 2 half, 1)


def _blend(
    canvas: NDArray[np.float32],
    fill: NDArray[np.float32],
    alpha: NDArray[np.float32],
    corner: tuple[int, int],
) -> None:
    left, top = corner
    size = fill.shape[0]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + size, IMAGE_SIZE), min(top + size, IMAGE_SIZE)
    part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    region = canvas[y0:y1, x0:x1]
    region += alpha[part] * (fill[part] - region)


def _circle(radius: float = 1.0, x: float = 0.0) -> Polygon:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _regular(points: int, inner: float | None = None) -> Polygon:
    total = points if inner is None else 2 * points
    angles = np.linspace(0, 2 * np.pi, total, endpoint=False) - np.pi / 2
    radii = np.where(np.arange(total) % 2 == 0, 1.0, 1.0 if inner is None else inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _cross() -> Polygon:
    a, b = 0.3, 0.95
    points = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
    points += [(-x, -y) for x, y in points]
    return np.array(points)


def _heart() -> Polygon:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 17, (y - 2.5) / 17], axis=1)


_OUTLINES: Final[dict[str, tuple[Polygon, Polygon | None]]] = {
    "circle": (_circle(), None),
    "square": (np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.84, None),
    "triangle": (_regular(3) * 1.1 + np.array([0.0, 0.18]), None),
    "star": (_regular(5, inner=0.42) * 1.05, None),
    "cross": (_cross(), None),
    "ring": (_circle(), _circle(0.58)),
    "heart": (_heart(), None),
    "moon": (_circle(), _circle(0.85, x=0.5)),
}
"""The polygon of each shape, and of its hole, if it has one."""
