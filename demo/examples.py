"""A few prompts with ten candidate pictures each, drawn the same every time, for a first look."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from demo.damage import KINDS, damage
from demo.render import STYLES, draw
from demo.scenes import Scene, Thing, attributes, changes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import NDArray

INDEX_NAME: Final = "examples.json"

SCENES: Final = {
    "a large red square on the right": Scene((Thing("red", "square", "large"),), position="right"),
    "near the top, a big blue ring": Scene((Thing("blue", "ring", "large"),), position="top"),
    "a tiny white heart in the middle": Scene((Thing("white", "heart", "small"),), position="middle"),
    "a small red circle above a blue square": Scene(
        (Thing("red", "circle", "small"), Thing("blue", "square")), relation="above"
    ),
}
"""Prompts and what they say; red squares, blue rings and white hearts were never trained on."""

_CANDIDATES: Final = 10
_DAMAGED: Final = 3
_SEED: Final = 3


def write(out: Path) -> None:
    """Write the pictures as JPEG, shuffled, and `examples.json` to say which is which."""
    out.mkdir(parents=True, exist_ok=True)
    index = []
    for number, (prompt, scene) in enumerate(SCENES.items(), start=1):
        rng = np.random.default_rng([_SEED, number])
        made = _candidates(scene, rng)
        entries = []
        for place, chosen in enumerate(rng.permutation(len(made)), start=1):
            name = f"{number}-{place:02}.jpg"
            pixels, departs = made[chosen]
            Image.fromarray(pixels).save(out / name, quality=90)
            entries.append({"file": name, "departs": departs})
        fitting = next(entry["file"] for entry in entries if entry["departs"] is None)
        index.append({"prompt": prompt, "fitting": fitting, "candidates": entries})
    (out / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _candidates(scene: Scene, rng: Generator) -> list[tuple[NDArray[np.uint8], str | None]]:
    """Draw ten: one that fits, three damaged copies of it, six that differ in an attribute."""
    style = str(rng.choice(STYLES))
    drawing = draw(scene, rng, style)
    made: list[tuple[NDArray[np.uint8], str | None]] = [(drawing.pixels, None)]
    made += [(damage(drawing, rng, str(kind)), str(kind)) for kind in rng.permutation(KINDS)[:_DAMAGED]]
    names, drawn = attributes(scene), [scene]
    for index in range(_CANDIDATES - len(made)):
        name = names[index % len(names)]
        others = [other for other in changes(scene, name, allow_held_out=True) if other not in drawn]
        other = others[int(rng.integers(len(others)))]
        drawn.append(other)
        made.append((draw(other, rng, style).pixels, name))
    return made
