"""Scores -> ranks, and two ways to read a raw score."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def ranks(scores: Sequence[float]) -> list[int]:
    """Rank scores from 1, the best; equal scores share a rank, and the next rank skips as many."""
    return [1 + sum(other > score for other in scores) for score in scores]


def sigmoid(raw_score: float) -> float:
    """Map a raw score to 0..1 without overflow at either end."""
    if raw_score >= 0:
        return 1 / (1 + math.exp(-raw_score))
    return math.exp(raw_score) / (1 + math.exp(raw_score))


def percentile(raw_score: float) -> float:
    """Return 100 * Phi(raw_score): on upstream's test set scores have mean 0 and deviation 1."""
    return 50 * math.erfc(-raw_score / math.sqrt(2))
