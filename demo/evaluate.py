"""The held-out test: pairs of pictures of which one is better, for prompts never trained on.

Every prompt names a look (colour and shape) that no training picture or prompt had; with one thing in a
place, its size and position in the better picture are such a combination too, of which the prompt may leave
out one. A pair differs in one attribute, or in damage alone. The set is code and a seed: the same pairs everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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

    from demo.scenes import Scene
    from reward.network import RewardNetwork

    Rewards = Callable[[list[NDArray[np.uint8]], list[str]], NDArray[np.float32]]
    """(224, 224, 3) pictures and one prompt each -> one reward each."""

TESTED: Final = (*ATTRIBUTES, "damage")
HELD_OUT_SEED: Final = 20_261_122
PAIRS: Final = 600
"""Pairs of the held-out test, for each of `TESTED`."""

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
    """What the pair is counted under besides its attribute: the kind of scene, or of damage."""
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
    """Accuracies by attribute and by "attribute / group", and the raw rewards' statistics."""

    accuracies: dict[str, Accuracy]
    mean: float
    deviation: float


def pairs(seed: int, number: int, *, held_out: bool = True) -> Iterator[Pair]:
    """Draw `number` pairs for each of `TESTED`; the same seed gives the same pairs."""
    for index, attribute in enumerate(TESTED):
        rng = np.random.default_rng([seed, index])
        for _ in range(number):
            yield _pair(attribute, rng, held_out=held_out)


def evaluate(rewards: Rewards, tested: Iterable[Pair]) -> Report:
    """Count how often the better picture of each pair gets the higher reward."""
    right: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    seen: list[NDArray[np.float32]] = []
    for chunk in _chunks(tested):
        pictures = [picture for pair in chunk for picture in (pair.better, pair.worse)]
        scores = rewards(pictures, [pair.prompt for pair in chunk for _ in range(2)]).reshape(-1, 2)
        seen.append(scores)
        for pair, (better, worse) in zip(chunk, scores, strict=True):
            for key in (pair.attribute, f"{pair.attribute} / {pair.group}"):
                total[key] += 1
                right[key] += bool(better > worse)
    everything = np.concatenate(seen).astype(np.float64)
    accuracies = {key: Accuracy(right[key], total[key]) for key in total}
    return Report(accuracies, float(everything.mean()), float(everything.std()))


def rewards_of(network: RewardNetwork) -> Rewards:
    """Score through the network as the service does: fp32, prompts cut to the longest of the batch."""
    device = network.head.weight.device

    def score(pictures: list[NDArray[np.uint8]], prompts: list[str]) -> NDArray[np.float32]:
        tokens = tokenise(prompts)
        length = int(tokens.lengths.max())
        pixels = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2))
        ids, mask = (torch.from_numpy(x[:, :length]) for x in (tokens.input_ids, tokens.attention_mask))
        with torch.inference_mode():
            rewards = network(pixels.to(device), ids.to(device), mask.to(device))
        scores: NDArray[np.float32] = rewards[:, 0].cpu().numpy()
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


def _chunks(tested: Iterable[Pair]) -> Iterator[list[Pair]]:
    chunk: list[Pair] = []
    for pair in tested:
        chunk.append(pair)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
