"""The gates: what they measure, counted by hand, and what they refuse."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from export import gates, questions
from export.errors import GateError
from export.gates import LIMITS, Limits, Measured, broken, check, kendall, measure, pearson, summary
from tests.small import small_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reward.network import RewardNetwork
    from reward.runtimes import Runtime

    Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Torch:
    """The small network itself as a version; `change` changes its scores."""

    def __init__(self, network: RewardNetwork, change: Change, precision: str = "fp32") -> None:
        self.manifest = SimpleNamespace(precision=precision)
        self.batches: list[int] = []
        self._network, self._change = network, change

    def score(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Score with torch, then change the scores."""
        self.batches.append(len(inputs[0]))
        with torch.no_grad():
            scores = self._network(*map(torch.from_numpy, inputs)).numpy()
        return self._change(scores)


def _version(network: RewardNetwork, change: Change, precision: str = "fp32") -> Runtime:
    return cast("Runtime", Torch(network, change, precision))


NETWORK = small_network()
ASKED = dataclasses.replace(
    questions.drawn(), prompts=("a red circle", ""), candidates=(tuple(range(10)), tuple(range(5, 15)))
)


def test_the_network_itself_passes_with_every_measure_at_its_best() -> None:
    """Compared with itself, the network differs only by rounding and keeps every order."""
    version = Torch(NETWORK, lambda scores: scores)
    calls: list[int] = []
    report = check(NETWORK, cast("Runtime", version), ASKED, progress=lambda: calls.append(1))
    assert report["max_difference"] <= 1e-5
    assert (report["pairs"], report["kendall"], report["best"]) == (20, 1.0, 1.0)
    assert report["pearson"] == pytest.approx(1)
    assert report["failures"] == []
    assert report["limits"] == dataclasses.asdict(LIMITS["fp32"])
    assert len(calls) == gates.steps(ASKED)
    assert {1, 3, 8} <= set(version.batches)  # alone, in threes, and as many as batches have


def test_a_shift_is_measured_and_refused() -> None:
    """If all scores move by 0.3, the largest and the mean difference say so.

    The order is kept.
    """
    version = _version(NETWORK, lambda scores: scores + np.float32(0.3), "int8")
    measured = measure(NETWORK, version, ASKED, lambda: None)
    assert measured.max_difference == pytest.approx(0.3, abs=1e-5)
    assert measured.mean_difference == pytest.approx(0.3, abs=1e-5)
    assert measured.kendall == measured.best == 1
    with pytest.raises(
        GateError,
        match=r"^nothing was published: the largest difference of a score to torch's fp32 is 0\.3, at "
        r"most 0\.2 is allowed for int8; the mean difference to torch's fp32 is 0\.3, at most 0\.05",
    ):
        check(NETWORK, version, ASKED)


def test_scores_the_other_way_round_break_every_order() -> None:
    """With reversed scores the worst candidate is named the best, and each pair is reversed."""
    measured = measure(NETWORK, _version(NETWORK, lambda scores: -scores), ASKED, lambda: None)
    assert measured.pearson == pytest.approx(-1)
    assert measured.kendall == -1
    assert measured.best == 0


def test_a_score_that_depends_on_its_batch_mates_is_seen() -> None:
    """A version that subtracts a tenth of its batch's mean is refused for that."""
    version = _version(NETWORK, lambda scores: scores - 0.1 * scores.mean())
    measured = measure(NETWORK, version, ASKED, lambda: None)
    assert measured.batch_difference > 1e-3
    assert any("with its batch mates" in failure for failure in broken(measured, LIMITS["fp32"], "fp32"))


def test_a_score_that_depends_on_its_place_is_seen() -> None:
    """A version that adds something to the first row of each batch is refused for that."""

    def change(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        scores[0] += 0.01
        return scores

    measured = measure(NETWORK, _version(NETWORK, change), ASKED, lambda: None)
    assert measured.batch_difference == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_whatever_is_forced(value: float) -> None:
    """A single row of NaN or infinity is refused, even by force."""

    def change(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        scores[-1] = value
        return scores

    with pytest.raises(GateError, match="scores that are not finite"):
        check(NETWORK, _version(NETWORK, change), ASKED, force=True)


def test_a_network_that_answers_alike_to_everything_is_refused() -> None:
    """A network that gives the same score to everything is refused: nothing can be told about it.

    If forced, it is published, and the report says so.
    """
    constant = small_network()
    constant.head.weight.data.zero_()
    version = _version(constant, lambda scores: scores)
    with pytest.raises(GateError, match="scores all 20 pairs alike"):
        check(constant, version, ASKED)
    report = check(constant, version, ASKED, force=True)
    assert report["pearson"] == 0
    assert report["summary"].endswith("PUBLISHED BY FORCE")


GOOD = Measured(100, 0.3, 0.01, 0.001, 0.0, 0.999, 0.98, 1.0, 0.3)


def test_each_limit_is_held_alone() -> None:
    """A measure at its limit passes; beyond it, it is named with its value and its limit."""
    at = Limits(0.01, 0.001, 0.0, 0.999, 0.98, 1.0)
    assert broken(GOOD, at, "fp16") == []
    for name, limit in dataclasses.asdict(at).items():
        worse = limit - 0.1 if name in {"pearson", "kendall", "best"} else limit + 0.1
        failures = broken(dataclasses.replace(GOOD, **{name: worse}), at, "fp16")
        assert len(failures) == 1
        assert f"{limit:g}" in failures[0]
        assert f"{worse:.6g}" in failures[0] or f"{worse:.2g}" in failures[0]
        assert "fp16" in failures[0]


def test_a_measure_that_is_no_number_breaks_its_limit() -> None:
    """A measure that is NaN breaks its limit."""
    nan = dataclasses.replace(GOOD, mean_difference=float("nan"), kendall=float("nan"))
    assert len(broken(nan, LIMITS["int8"], "int8")) == 2


def test_the_summary_is_one_line() -> None:
    """The summary, shown by lists and `/info`, is one line."""
    assert summary("int8", GOOD, []) == (
        "int8 differs from torch's fp32 by 0.01 at most, 0.001 on average, over 100 pairs; "
        "Pearson 0.9990, Kendall 0.980, same best 100%"
    )


@pytest.mark.parametrize(
    ("expected", "scores", "tau"),
    [
        ([1.0, 2.0, 3.0], [0.1, 0.2, 0.3], 1.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -1.0),
        ([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], 1 / 3),  # two pairs kept, one turned
        ([1.0, 1.00001, 3.0], [2.0, 1.0, 3.0], 1.0),  # a tie of the network's may stand either way
        ([1.0, 2.0], [5.0, 5.0], 0.0),  # a tie of the version's is half an answer
        ([1.0, 1.0], [5.0, 6.0], 1.0),  # no order, none to keep
    ],
)
def test_kendall(expected: list[float], scores: list[float], tau: float) -> None:
    """Kendall's tau counts kept less reversed pairs, of those that the network tells apart."""
    assert kendall(np.array(expected), np.array(scores)) == pytest.approx(tau)


def test_pearson_of_what_never_changes_is_nothing() -> None:
    """The correlation with something constant is 0 and not NaN."""
    assert pearson(np.zeros(3), np.arange(3.0)) == 0
    assert pearson(np.arange(3.0), 7 - 2 * np.arange(3.0)) == pytest.approx(-1)
