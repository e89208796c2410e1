"""Ranks, and the two readings of a raw score."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.scoring.ranking import percentile, ranks, sigmoid


def test_equal_scores_share_a_rank() -> None:
    """Equal scores share a rank, and the next rank skips as many: 1, 2, 2, 4.

    The ranks are in the order of the scores given.
    """
    assert ranks([0.5, 2.0, 0.5, -1.0]) == [2, 1, 2, 4]
    assert ranks([]) == []


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_ranks_are_in_order(scores: list[float]) -> None:
    """A rank is one more than the number of better scores; equal scores have equal ranks."""
    found = sorted(zip(ranks(scores), scores, strict=True))
    assert [score for _, score in found] == sorted(scores, reverse=True)
    for place, (rank, score) in enumerate(found, start=1):
        tied = place > 1 and found[place - 2][1] == score
        assert rank == (found[place - 2][0] if tied else place)


@pytest.mark.parametrize("raw", [-1e308, -800.0, -2.0, -0.1, 0.0, 0.581, 2.0, 800.0, 1e308])
def test_readings_of_a_score(raw: float) -> None:
    """The sigmoid stays within 0 and 1 and never overflows.

    The percentile is that of the normal distribution.
    """
    assert 0 <= sigmoid(raw) <= 1
    if abs(raw) < 10:
        assert math.log(sigmoid(raw) / (1 - sigmoid(raw))) == pytest.approx(raw, abs=1e-9)
    assert percentile(raw) == pytest.approx(100 * NormalDist().cdf(raw), abs=1e-9)
