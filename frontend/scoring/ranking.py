"""Scores -> places, and the two readings of a raw score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Place:
    """One score's place."""

    rank: int
    """From 1; equal scores share a rank, and the next one skips as many."""
    index: int
    """Of the score among those ranked."""


def rank(scores: Sequence[float]) -> list[Place]:
    """Order scores, best first; equal ones keep their order by index."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    places: list[Place] = []
    for position, index in enumerate(order, start=1):
        tied = bool(places) and scores[places[-1].index] == scores[index]
        places.append(Place(places[-1].rank if tied else position, index))
    return places


def sigmoid(raw_score: float) -> float:
    """Map a raw score to 0..1 without overflow at either end."""
    if raw_score >= 0:
        return 1 / (1 + math.exp(-raw_score))
    return math.exp(raw_score) / (1 + math.exp(raw_score))


def percentile(raw_score: float) -> float:
    """Return 100 * Phi(raw_score): ImageReward's scores have mean 0 and deviation 1 on its own test set."""
    return 50 * math.erfc(-raw_score / math.sqrt(2))
