"""Counting on hand-made pairs, and the held-out set itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from demo.evaluate import TESTED, Accuracy, Pair, calibrate, evaluate, in_torch, pairs
from reward.network import Dimensions, RewardNetwork

TINY = Dimensions(
    patch_size=112,
    image_width=16,
    image_layers=1,
    image_heads=2,
    text_width=16,
    text_layers=1,
    text_heads=2,
    max_positions=35,
)


def test_counts_right_wrong_and_ties() -> None:
    """Of three pairs, one right, one wrong and one tied, one counts as right.

    The reward in this test is the brightness of the first pixel.
    """

    def pair(better: int, worse: int, group: str) -> Pair:
        pictures = (np.full((224, 224, 3), value, np.uint8) for value in (better, worse))
        return Pair("colour", group, "a prompt", *pictures)

    tested = [pair(9, 1, "one"), pair(1, 9, "one"), pair(5, 5, "counted")]
    report = evaluate(lambda pixels, *_: pixels[:, 0, 0, :1].astype(np.float32), tested)
    assert report.accuracies == {
        "colour": Accuracy(1, 3),
        "colour / one": Accuracy(1, 2),
        "colour / counted": Accuracy(0, 1),
    }
    assert report.mean == pytest.approx(5)
    assert report.deviation == pytest.approx((64 / 6) ** 0.5 * 1.0, rel=1e-6)


def test_held_out_pairs_are_the_same_everywhere() -> None:
    """The set depends on its seed alone: drawn twice, it is equal byte for byte."""
    first, second = ([*pairs(4, 3)] for _ in range(2))
    assert [pair.attribute for pair in first] == [name for name in TESTED for _ in range(3)]
    for one, other in zip(first, second, strict=True):
        assert one.prompt == other.prompt
        assert np.array_equal(one.better, other.better)
        assert np.array_equal(one.worse, other.worse)
        assert not np.array_equal(one.better, one.worse)


def test_calibrated_rewards_are_standardised() -> None:
    """After calibration the same pairs have mean 0, deviation 1, and the same order."""
    torch.manual_seed(0)
    network = RewardNetwork(TINY).eval()
    tested = [*pairs(4, 3)]
    before = evaluate(in_torch(network), tested)
    calibrate(network, before)
    after = evaluate(in_torch(network), tested)
    assert after.mean == pytest.approx(0, abs=1e-3)
    assert after.deviation == pytest.approx(1, abs=1e-3)
    assert after.accuracies == before.accuracies
