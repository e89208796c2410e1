"""The held-out test: pairs of pictures, one of them better, for prompts never trained on.

Every prompt names a look (colour and shape) that no training picture or prompt had. If one thing
stands in a place, its size and position in the better picture are such a combination, too; the
prompt may leave out one of them. A pair differs in one attribute or only in damage. The set is made
by code and a seed, so the pairs are the same everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from demo.damage import KINDS, damage
from demo.render import draw
from demo.scenes import ATTRIBUTES, changes, sample
from demo.wording import omit, word
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    from demo.scenes import Scene
    from reward.network import RewardNetwork

    Scorer = Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
    """(B, 3, 224, 224), (B, 35), (B, 35) -> (B, 1), as `Runtime.score`."""

TESTED: Final = (*ATTRIBUTES, "damage")
HELD_OUT_SEED: Final = 20_261_122
PAIRS: Final = 600
"""The number of pairs in the held-out test, for each of `TESTED`."""

_KINDS: Final = {
    "position": {"one": 1.0},
    "count": {"counted": 1.0},
    "relation": {"related": 1.0},
    "size": {"one": 0.7, "related": 0.3},
}
_ANY_KIND: Final = {"one": 0.55, "counted": 0.15, "related": 0.3}
_CHUNK: Final = 30


@dataclass(frozen=True)
class Pair:
    """Two pictures, (224, 224, 3), of which the first is better for the prompt."""

    attribute: str
    group: str
    """The kind of scene or of damage; pairs are counted by this as well as by attribute."""
    prompt: str
    better: NDArray[np.uint8]
    worse: NDArray[np.uint8]


@dataclass(frozen=True)
class Accuracy:
    """Pairs in which the better picture scored higher; a tie is wrong."""

    right: int
    pairs: int

    @property
    def share(self) -> float:
        return self.right / self.pairs


@dataclass(frozen=True)
class Report:
    """Accuracies by attribute and by "attribute / group", and statistics of the raw rewards."""

    accuracies: dict[str, Accuracy]
    mean: float
    deviation: float


def pairs(seed: int, number: int, *, held_out: bool = True) -> Iterator[Pair]:
    """Draw `number` pairs for each of `TESTED`; the same seed gives the same pairs."""
    for index, attribute in enumerate(TESTED):
        rng = np.random.default_rng([seed, index])
        for _ in range(number):
            yield _pair(attribute, rng, held_out=held_out)


def evaluate(score: Scorer, tested: Iterable[Pair]) -> Report:
    """Count how often the better picture of each pair gets the higher reward."""
    right: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    seen: list[NDArray[np.float32]] = []
    left = iter(tested)
    while chunk := list(islice(left, _CHUNK)):
        pictures = np.stack([picture for pair in chunk for picture in (pair.better, pair.worse)])
        tokens = tokenise([pair.prompt for pair in chunk for _ in range(2)])
        rewards = score(pictures.transpose(0, 3, 1, 2), tokens.input_ids, tokens.attention_mask)
        seen.append(rewards)
        for pair, (better, worse) in zip(chunk, rewards.reshape(-1, 2), strict=True):
            for key in (pair.attribute, f"{pair.attribute} / {pair.group}"):
                total[key] += 1
                right[key] += bool(better > worse)
    everything = np.concatenate(seen).astype(np.float64)
    accuracies = {key: Accuracy(right[key], total[key]) for key in total}
    return Report(accuracies, float(everything.mean()), float(everything.std()))


def in_torch(network: RewardNetwork) -> Scorer:
    """Score through the network itself, wherever it is."""
    device = network.head.weight.device

    def score(*arrays: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            rewards: Tensor = network(*(torch.from_numpy(array).to(device) for array in arrays))
        scores: NDArray[np.float32] = rewards.cpu().numpy()
        return scores

    return score


def calibrate(network: RewardNetwork, report: Report) -> None:
    """Rescale the head so that the rewards of the reported pairs have mean 0 and deviation 1."""
    with torch.no_grad():
        network.head.weight /= report.deviation
        network.head.bias.copy_((network.head.bias - report.mean) / report.deviation)


def _pair(attribute: str, rng: Generator, *, held_out: bool) -> Pair:
    odds = _KINDS.get(attribute, _ANY_KIND)
    while True:
        kind = str(rng.choice(list(odds), p=list(odds.values())))
        scene = sample(rng, held_out=held_out, kind=kind)
        if attribute == "damage":
            return _damaged_pair(scene, rng)
        others = changes(scene, attribute, allow_held_out=held_out)
        if not others:
            continue
        other = others[int(rng.integers(len(others)))]
        prompt = word(omit(scene, rng, keep=(attribute,)), rng)
        return Pair(attribute, kind, prompt, draw(scene, rng).pixels, draw(other, rng).pixels)


def _damaged_pair(scene: Scene, rng: Generator) -> Pair:
    drawing = draw(scene, rng)
    kind = str(rng.choice(KINDS))
    worse = damage(drawing, rng, kind)
    return Pair("damage", kind, word(omit(scene, rng), rng), drawing.pixels, worse)
