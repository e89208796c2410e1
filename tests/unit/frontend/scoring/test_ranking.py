"""Ranks, and the two readings of a raw score."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.scoring.ranking import Place, percentile, rank, sigmoid


def test_equal_scores_share_a_rank_and_keep_their_order() -> None:
    """1, 2, 2, 4: a tie takes one rank, the next skips as many."""
    assert rank([0.5, 2.0, 0.5, -1.0]) == [Place(1, 1), Place(2, 0), Place(2, 2), Place(4, 3)]
    assert rank([]) == []


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_ranks_are_in_order(scores: list[float]) -> None:
    """Every score has one place; a place's rank is one more than how many scores are better."""
    places = rank(scores)
    assert sorted(place.index for place in places) == list(range(len(scores)))
    for place in places:
        assert place.rank == 1 + sum(score > scores[place.index] for score in scores)


@pytest.mark.parametrize("raw", [-1e308, -800.0, -2.0, -0.1, 0.0, 0.581, 2.0, 800.0, 1e308])
def test_readings_of_a_score(raw: float) -> None:
    """The sigmoid neither overflows nor leaves 0 to 1; the percentile is the normal distribution's."""
    assert 0 <= sigmoid(raw) <= 1
    if abs(raw) < 10:
        assert math.log(sigmoid(raw) / (1 - sigmoid(raw))) == pytest.approx(raw, abs=1e-9)
    assert percentile(raw) == pytest.approx(100 * NormalDist().cdf(raw), abs=1e-9)
