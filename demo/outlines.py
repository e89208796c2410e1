"""Shapes -> polygons within the unit circle; what is cut out of them is a polygon too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Polygon = NDArray[np.float64]  # (points, 2): x to the right, y down


def outline(shape: str) -> tuple[Polygon, Polygon | None]:
    """Return a shape's polygon and the polygon of its hole, if it has one."""
    return _OUTLINES[shape]()


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


_OUTLINES: Final[dict[str, Callable[[], tuple[Polygon, Polygon | None]]]] = {
    "circle": lambda: (_circle(), None),
    "square": lambda: (np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.84, None),
    "triangle": lambda: (_regular(3) * 1.1 + np.array([0.0, 0.18]), None),
    "star": lambda: (_regular(5, inner=0.42) * 1.05, None),
    "cross": lambda: (_cross(), None),
    "ring": lambda: (_circle(), _circle(0.58)),
    "heart": lambda: (_heart(), None),
    "moon": lambda: (_circle(), _circle(0.85, x=0.5)),
}
