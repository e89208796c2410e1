"""Ranks, and the two readings of a raw score."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.scoring.ranking import percentile, ranks, sigmoid


def test_equal_scores_share_a_rank() -> None:
    """1, 2, 2, 4: a tie takes one rank, the next skips as many; ranks stand in the scores' order."""
    assert ranks([0.5, 2.0, 0.5, -1.0]) == [2, 1, 2, 4]
    assert ranks([]) == []


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_ranks_are_in_order(scores: list[float]) -> None:
    """Sorted by rank, scores fall; ranks are equal where scores are, and where not, count the better."""
    found = sorted(zip(ranks(scores), scores, strict=True))
    assert [score for _, score in found] == sorted(scores, reverse=True)
    for place, (rank, score) in enumerate(found, start=1):
        tied = place > 1 and found[place - 2][1] == score
        assert rank == (found[place - 2][0] if tied else place)


@pytest.mark.parametrize("raw", [-1e308, -800.0, -2.0, -0.1, 0.0, 0.581, 2.0, 800.0, 1e308])
def test_readings_of_a_score(raw: float) -> None:
    """The sigmoid neither overflows nor leaves 0 to 1; the percentile is the normal distribution's."""
    assert 0 <= sigmoid(raw) <= 1
    if abs(raw) < 10:
        assert math.log(sigmoid(raw) / (1 - sigmoid(raw))) == pytest.approx(raw, abs=1e-9)
    assert percentile(raw) == pytest.approx(100 * NormalDist().cdf(raw), abs=1e-9)
