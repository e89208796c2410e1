"""Questions on which a version is measured: a prompt and the candidate pictures that it ranks.

The built-in ones are drawn here: ten prompts with ten of twenty pictures each. NumPy alone draws
them, so they are the same to the bit everywhere. `read` reads a user's own: image files and
`prompts.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.errors import QuestionsError
from export.scoring import read_pixels
from reward.contract import IMAGE_SIZE
from reward.tokenizer import Tokens, tokenise

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

FILE_NAME: Final = "prompts.json"
BUILT_IN: Final = "built-in"

_PICTURES: Final = 20
_CANDIDATES: Final = 10
_PROMPTS: Final = (
    "a red circle",
    "",
    "two blue squares on a green ground, oil on canvas",
    "a painting of an ocean with clouds and birds, day time, low depth field effect",
    "yellow",
    "a photograph of an astronaut, highly detailed, sharp focus, cinematic light, " * 3,
    "日本の庭園 🌸 — déjà vu [SEP]",
    "clouds in many colours, without any object",
    "noise",
    "a white diamond beside a black circle, minimalist poster",
)


@dataclass(frozen=True)
class Questions:
    """Prompts, pictures, and which pictures are candidates of which prompt."""

    name: str
    """`built-in`, or the name of the directory from which they were read."""
    prompts: tuple[str, ...]
    pixels: NDArray[np.uint8]  # (pictures, 3, 224, 224)
    candidates: tuple[tuple[int, ...], ...]
    """For each prompt the indices of its pictures, at least two."""

    def rows(self) -> tuple[Tokens, NDArray[np.int64]]:
        """Return all pairs, one question after the other: their tokens and their pictures."""
        prompts = zip(self.prompts, self.candidates, strict=True)
        repeated = [prompt for prompt, candidates in prompts for _ in candidates]
        return tokenise(repeated), np.concatenate(self.candidates).astype(np.int64)


def drawn(seed: int = 0) -> Questions:
    """Draw the built-in questions; another seed gives other pictures, for calibration."""
    random = np.random.default_rng(seed)
    pixels = np.stack([_draw(random) for _ in range(_PICTURES)])
    candidates = [
        tuple((question * 3 + place) % _PICTURES for place in range(_CANDIDATES))
        for question in range(len(_PROMPTS))
    ]
    return Questions(BUILT_IN, _PROMPTS, pixels, tuple(candidates))


def read(directory: Path) -> Questions:
    """Read image files and `prompts.json`: `[{"prompt": "…", "images": ["1.jpg", …]}, …]`.

    Raises:
        QuestionsError: the file is missing or not in that form.
        UnusableImage: an image is missing or damaged.
    """
    path = directory / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        asked = [(_text(entry["prompt"]), [_text(name) for name in entry["images"]]) for entry in content]
    except OSError as error:
        raise QuestionsError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise QuestionsError(f'{path}: not a list of {{"prompt": "…", "images": ["1.jpg", …]}}') from error
    if not asked or min(len(names) for _, names in asked) < 2:
        raise QuestionsError(f"{path}: needs a prompt, and two images for each")
    places = {
        name: place for place, name in enumerate(dict.fromkeys(name for _, names in asked for name in names))
    }
    return Questions(
        name=directory.resolve().name,
        prompts=tuple(prompt for prompt, _ in asked),
        pixels=np.stack([read_pixels(directory / name) for name in places]),
        candidates=tuple(tuple(places[name] for name in names) for _, names in asked),
    )


def _text(value: Any) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _draw(random: np.random.Generator) -> Picture:
    """Draw one to three shapes on clouds of two colours, from a smooth ramp to plain noise."""
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] / IMAGE_SIZE
    low, high = random.integers(0, 256, (2, 3, 1, 1))
    picture = low + (high - low) * _clouds(random, int(random.choice([2, 3, 5, 9, 33, IMAGE_SIZE])))
    for _ in range(random.integers(1, 4)):
        dx, dy = np.abs(x - random.random()), np.abs(y - random.random())
        distances = (np.sqrt(dx * dx + dy * dy), np.maximum(dx, dy), dx + dy)  # circle, square, diamond
        inside = distances[random.integers(3)] < random.uniform(0.08, 0.35)
        picture = np.where(inside, random.integers(0, 256, (3, 1, 1)), picture)
    pixels: Picture = np.round(picture).astype(np.uint8)
    return pixels


def _clouds(random: np.random.Generator, knots: int) -> NDArray[np.float64]:
    """Interpolate `knots` x `knots` random numbers to a field of 0 .. 1, (224, 224)."""
    grid, fine = np.linspace(0, 1, knots), np.linspace(0, 1, IMAGE_SIZE)
    rows = np.stack([np.interp(fine, grid, row) for row in random.random((knots, knots))])
    return np.stack([np.interp(fine, grid, column) for column in rows.T]).T
