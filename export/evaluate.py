"""How well a model agrees with people: preference accuracy, Recall@k and Filter@k.

The annotations are ImageRewardDB's, in the form of upstream's `data/test.json`: a list of
`{"id", "prompt", "generations": [image, …], "ranking": [rank, …]}`, where rank 1 is the best and
ranks may tie.

Preference accuracy is upstream's (`test.py`, `acc`). It counts all pairs of one prompt's images
that people ranked apart. It is the share of them in which the image that people prefer has the
higher reward. If the model gives both the same reward, that is an error.

Recall@k and Filter@k are in the paper's Table 3. The script and the test set behind its numbers
were never released. Here, Recall is the share of prompts whose best image, by people, is among the
k of highest reward. Filter is the share whose worst image is among the k of lowest reward. A prompt
counts only if the answer can be wrong and is known: it has more than k images, and people name a
single best (or worst) one. An image that ties with others by reward is taken to stand behind them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from export.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

KS: Final = (1, 2, 4)


@dataclass(frozen=True)
class Annotation:
    """One prompt, its images and how people ranked them."""

    id: str
    prompt: str
    generations: tuple[str, ...]
    """Paths relative to the directory of images."""
    ranking: tuple[int, ...]
    """1 is the best; ranks may tie, and may leave out numbers."""


@dataclass(frozen=True)
class Share:
    """A part of a whole, both as counts."""

    hits: int = 0
    of: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.hits + other.hits, self.of + other.of)

    def text(self, unit: str) -> str:
        """Return the share in per cent and in counts."""
        if not self.of:
            return f"{'-':>6}     (no {unit} to count)"
        return f"{100 * self.hits / self.of:>6.2f} %   ({self.hits} of {self.of} {unit})"


@dataclass(frozen=True)
class Agreement:
    """A model's agreement with people over all prompts."""

    accuracy: Share
    """The share of pairs in which the model agrees."""
    recall: dict[int, Share]
    """k -> the share of prompts."""
    filter: dict[int, Share]

    def table(self) -> str:
        """Lay out one line for each measure."""
        lines = [f"{'preference accuracy':<20} {self.accuracy.text('pairs')}"]
        lines += [f"{f'Recall@{k}':<20} {share.text('prompts')}" for k, share in self.recall.items()]
        lines += [f"{f'Filter@{k}':<20} {share.text('prompts')}" for k, share in self.filter.items()]
        return "\n".join(lines)


def evaluate(
    annotations: Iterable[Annotation], images: Path, score: Callable[[str, Sequence[Path]], Sequence[float]]
) -> Agreement:
    """Score every image of every prompt and count; `annotations` may be wrapped in a progress bar.

    Raises:
        ExportError: whatever `score` raises for an image that it cannot score.
        AnnotationError: a score is not finite, so it cannot be compared.
    """
    accuracy = Share()
    recall, filtered = dict.fromkeys(KS, Share()), dict.fromkeys(KS, Share())
    for annotation in annotations:
        rewards = list(score(annotation.prompt, [images / name for name in annotation.generations]))
        if not all(map(math.isfinite, rewards)):
            raise AnnotationError(f"{annotation.id}: the model gave a score that is not finite")
        accuracy += pairs(annotation.ranking, rewards)
        for k in KS:
            recall[k] += leading(annotation.ranking, rewards, k)
            # The worst image of a ranking is the best of the reversed ranking.
            filtered[k] += leading([-rank for rank in annotation.ranking], [-reward for reward in rewards], k)
    return Agreement(accuracy, recall, filtered)


def pairs(ranking: Sequence[int], rewards: Sequence[float]) -> Share:
    """Count the pairs that people ranked apart, and those of them in which the model agrees."""
    apart = [(i, j) for i, j in combinations(range(len(ranking)), 2) if ranking[i] != ranking[j]]
    agreeing = [
        (i, j)
        for i, j in apart
        if rewards[i] != rewards[j] and (ranking[i] < ranking[j]) == (rewards[i] > rewards[j])
    ]
    return Share(len(agreeing), len(apart))


def leading(ranking: Sequence[int], rewards: Sequence[float], k: int) -> Share:
    """Tell if a prompt's one best image is among the k highest rewards; 0 of 0 if unknown."""
    best = min(ranking)
    if len(ranking) <= k or ranking.count(best) > 1:
        return Share()
    index = ranking.index(best)
    before = sum(reward >= rewards[index] for other, reward in enumerate(rewards) if other != index)
    return Share(int(before < k), 1)


def read(path: Path) -> list[Annotation]:
    """Read annotations.

    Raises:
        AnnotationError: the file is missing or not in ImageRewardDB's format; the first wrong entry
        is named.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, list) or not content:
        raise AnnotationError(f"{path}: not a list of annotations")
    return [_annotation(path, index, entry) for index, entry in enumerate(content)]


def _annotation(path: Path, index: int, entry: Any) -> Annotation:  # noqa: ANN401 - JSON
    try:
        annotation = Annotation(
            id=str(entry["id"]),
            prompt=entry["prompt"],
            generations=tuple(entry["generations"]),
            ranking=tuple(entry["ranking"]),
        )
    except (KeyError, TypeError) as error:
        raise AnnotationError(
            f"{path}: entry {index} lacks one of id, prompt, generations, ranking"
        ) from error
    if (
        not isinstance(annotation.prompt, str)
        or not all(isinstance(name, str) for name in annotation.generations)
        or not all(type(rank) is int for rank in annotation.ranking)
    ):
        raise AnnotationError(f"{path}: entry {index} ({annotation.id}) holds a value of another type")
    if len(annotation.generations) != len(annotation.ranking) or not annotation.ranking:
        raise AnnotationError(
            f"{path}: entry {index} ({annotation.id}) has {len(annotation.generations)} generations "
            f"and {len(annotation.ranking)} ranks"
        )
    return annotation
