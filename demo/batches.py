"""What one training step sees: groups of pictures and prompts, and which of them fit together.

Of the four pictures, one shows what the first prompts say, one is the same but damaged, and two
differ in one attribute. Of the eight prompts, two describe the first picture, two describe the
differing ones, and two describe something that is on none of them. The last two belong to another
group: they are easy to tell, so the network learns them first.

Shapes: G groups, I = 4 pictures, P = 8 prompts, T prompt tokens, N = patches of one picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch

from demo.damage import KINDS, damage
from demo.render import Drawing, draw
from demo.scenes import COLOURS, COUNTS, POSITIONS, SHAPES, SIZES, attributes, changes, fits, sample
from demo.wording import omit, word
from reward.contract import IMAGE_SIZE
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    from demo.scenes import Scene

PICTURES: Final = 4
PROMPTS: Final = 8
UNKNOWN: Final = -100
"""Marks a label that must not be learned; this is torch's own number for it."""

NAMED: Final = {
    "colour": 1 + len(COLOURS),
    "shape": 1 + len(SHAPES),
    "size": 2 + len(SIZES),  # the last is neither small nor large
    "position": 1 + len(POSITIONS),
    "count": 1 + len(COUNTS),
}
"""The number of classes for what stands at a patch, where 0 is nothing."""

_HARDNESS: Final = {"colour": 0.5, "shape": 3.0, "size": 0.8, "position": 3.0, "count": 1.5, "relation": 2.0}
_DAMAGED: Final = 0.2  # of the differing pictures


class _Tensors:
    def to(self, device: torch.device) -> Self:
        """Return the same on another device."""
        return type(self)(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Labels(_Tensors):
    """What the auxiliary heads must name."""

    standing: Tensor  # (len(NAMED), G * I, N) int64: classes, 0 where nothing stands, or unknown
    damage: Tensor  # (G * I,) int64, 0 for none
    covered: Tensor  # (G * I, N, 16) float32, how much of each of 4 x 4 parts things cover, or unknown


@dataclass(frozen=True)
class Batch(_Tensors):
    """Pictures, prompts, and how well each fits each within its group."""

    pixels: Tensor  # (G * I, 3, 224, 224) uint8
    input_ids: Tensor  # (G, P, T) int64
    attention_mask: Tensor  # (G, P, T) int64
    fit: Tensor  # (G, I, P) float32: 1 fits, 0 does not, NaN where people would differ
    labels: Labels


@dataclass(frozen=True)
class _Picture:
    scene: Scene
    drawing: Drawing
    pixels: NDArray[np.uint8]  # (224, 224, 3)
    damage: str | None


def make(rng: Generator, groups: int, patch_size: int) -> Batch:
    """Draw a batch; the same generator state gives the same batch."""
    pictures: list[_Picture] = []
    descriptions: list[list[Scene]] = []
    for _ in range(groups):
        scene = sample(rng)
        others = [_differ(scene, rng) for _ in range(4)]
        pictures += _pictures(scene, others[:2], rng)
        descriptions.append([scene, omit(scene, rng), *others])
    firsts = [said[:2] for said in descriptions]
    for index, said in enumerate(descriptions):
        said.extend(firsts[(index + 1) % groups])
    tokens = tokenise([word(scene, rng) for said in descriptions for scene in said])
    length = int(tokens.lengths.max())
    by_group = [pictures[i : i + PICTURES] for i in range(0, len(pictures), PICTURES)]
    fit = [
        [[_as_float(fits(description, picture.scene)) for description in said] for picture in group]
        for group, said in zip(by_group, descriptions, strict=True)
    ]
    return Batch(
        pixels=torch.from_numpy(np.stack([p.pixels for p in pictures]).transpose(0, 3, 1, 2)),
        input_ids=torch.from_numpy(tokens.input_ids[:, :length]).view(groups, PROMPTS, length),
        attention_mask=torch.from_numpy(tokens.attention_mask[:, :length]).view(groups, PROMPTS, length),
        fit=torch.tensor(fit),
        labels=_labels(pictures, patch_size),
    )


def _differ(scene: Scene, rng: Generator) -> Scene:
    options = {name: changes(scene, name) for name in attributes(scene)}
    names = [name for name, others in options.items() if others]
    odds = np.array([_HARDNESS[name] for name in names])
    others = options[str(rng.choice(names, p=odds / odds.sum()))]
    return others[int(rng.integers(len(others)))]


def _pictures(scene: Scene, others: list[Scene], rng: Generator) -> list[_Picture]:
    first = draw(scene, rng)
    again = first if rng.random() < 0.5 else draw(scene, rng)
    made = [_Picture(scene, first, first.pixels, None), _damaged(scene, again, rng)]
    for other in others:
        drawing = draw(other, rng)
        if rng.random() < _DAMAGED:
            made.append(_damaged(other, drawing, rng))
        else:
            made.append(_Picture(other, drawing, drawing.pixels, None))
    return made


def _damaged(scene: Scene, drawing: Drawing, rng: Generator) -> _Picture:
    kind = str(rng.choice(KINDS))
    return _Picture(scene, drawing, damage(drawing, rng, kind), kind)


def _as_float(fit: bool | None) -> float:
    return float("nan") if fit is None else float(fit)


def _labels(pictures: list[_Picture], patch_size: int) -> Labels:
    side, part = IMAGE_SIZE // patch_size, patch_size // 4
    centres = (np.arange(side) + 0.5) * patch_size
    covered = np.stack([picture.drawing.covered for picture in pictures])
    covered = covered.reshape(-1, side, 4, part, side, 4, part).mean((3, 6)).transpose(0, 1, 3, 2, 4)
    covered = covered.reshape(len(pictures), side, side, 16)
    grids = np.zeros((len(NAMED), len(pictures), side, side), np.int64)
    for index, picture in enumerate(pictures):
        if picture.damage == "crop":  # things do not stand where they were drawn
            grids[:, index] = UNKNOWN
            covered[index] = UNKNOWN
            continue
        position = picture.scene.position
        for item in picture.drawing.placed:
            distance = np.hypot(centres[None, :] - item.x, centres[:, None] - item.y)
            corner = (covered[index].mean(-1) > 0.5) & (distance < 1.25 * item.radius)
            inside = (distance < item.radius + patch_size * 0.1) | corner
            grids[:, index, inside] = np.array(
                [
                    1 + COLOURS.index(item.thing.colour),
                    1 + SHAPES.index(item.thing.shape),
                    1 + (*SIZES, None).index(item.thing.size),
                    1 + POSITIONS.index(position) if position else UNKNOWN,
                    len(picture.drawing.placed),
                ]
            )[:, None]
    kinds = [0 if picture.damage is None else 1 + KINDS.index(picture.damage) for picture in pictures]
    covered_parts = torch.from_numpy(covered).flatten(1, 2)
    return Labels(torch.from_numpy(grids).flatten(2), torch.tensor(kinds), covered_parts)
