"""Scenes -> where each thing stands, in pixels, never touching the border or another thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from reward.contract import IMAGE_SIZE

if TYPE_CHECKING:
    from numpy.random import Generator

    from demo.scenes import Scene, Thing

_RADII: Final = {"small": (19.0, 26.0), "large": (44.0, 53.0), None: (28.0, 36.0)}
_MARGIN: Final = 5.0
_CENTRES: Final = {
    "left": (0.24, 0.5),
    "right": (0.76, 0.5),
    "top": (0.5, 0.24),
    "bottom": (0.5, 0.76),
    "middle": (0.5, 0.5),
}
_DIRECTIONS: Final = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}


@dataclass(frozen=True)
class Placed:
    """A thing at its place; pixels, from the upper left corner."""

    thing: Thing
    x: float
    y: float
    radius: float


def place(scene: Scene, rng: Generator) -> list[Placed]:
    """Choose centres and radii that make the scene true."""
    if scene.relation:
        return _place_related(scene, rng)
    if scene.count > 1:
        return _place_counted(scene, rng)
    thing = scene.things[0]
    radius = _radius(thing, rng)
    position = scene.position or str(rng.choice(list(_CENTRES)))
    x, y = (_inside(IMAGE_SIZE * at + rng.uniform(-13, 13), radius) for at in _CENTRES[position])
    return [Placed(thing, x, y, radius)]


def _place_related(scene: Scene, rng: Generator) -> list[Placed]:
    toward = _DIRECTIONS[str(scene.relation)]
    placed = []
    for thing, sign in zip(scene.things, (1, -1), strict=True):
        radius = min(_radius(thing, rng), 50.0)
        x, y = (
            _inside(IMAGE_SIZE * (0.5 + 0.25 * sign * way) + rng.uniform(-3, 3) * (1 if way else 6), radius)
            for way in toward
        )
        placed.append(Placed(thing, x, y, radius))
    return placed


def _place_counted(scene: Scene, rng: Generator) -> list[Placed]:
    thing = scene.things[0]
    cells = [(0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)]
    if scene.count < 4 and rng.random() < 0.4:
        cells = [(0.18, 0.5), (0.5, 0.5), (0.82, 0.5)]
        cells = [(y, x) for x, y in cells] if rng.random() < 0.5 else cells
    chosen = rng.permutation(len(cells))[: scene.count]
    base = rng.uniform(24, 31)
    return [
        Placed(
            thing,
            _inside(IMAGE_SIZE * cells[i][0] + rng.uniform(-4, 4), base),
            _inside(IMAGE_SIZE * cells[i][1] + rng.uniform(-4, 4), base),
            base * rng.uniform(0.92, 1.0),
        )
        for i in chosen
    ]


def _radius(thing: Thing, rng: Generator) -> float:
    return float(rng.uniform(*_RADII[thing.size]))


def _inside(centre: float, radius: float) -> float:
    return min(max(centre, radius + _MARGIN), IMAGE_SIZE - radius - _MARGIN)
