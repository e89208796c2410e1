"""What a version must pass before it is published: its scores are compared with fp32's.

The version and the fp32 network score the same questions (`export.questions`). A version with a
score that is not a number is never published. A version beyond another limit of its precision is
published only by `--force`, and its manifest says so. docs/decisions/gates.md explains each limit.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from export.errors import GateError
from export.native_config import MAX_DIFFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from export.questions import Questions
    from reward.network import RewardNetwork
    from reward.runtimes import Runtime
    from reward.tokenizer import Tokens

    Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """How far a version may be from the fp32 network; scores have a deviation of about 1."""

    max_difference: float
    """The largest difference of one score."""
    mean_difference: float
    """The mean of all |differences|."""
    batch_difference: float
    """The largest difference of one pair's score when it is alone, beside others, or at another
    place of a batch.
    """
    pearson: float
    """The least correlation over all pairs."""
    kendall: float
    """The least rank correlation of one prompt's candidates, as the mean over all prompts."""
    best: float
    """The least share of prompts for which both name the same best candidate (of ten, if built in).
    """


LIMITS: Final = {
    "fp32": Limits(1e-4, 2e-5, 1e-5, 0.999_99, 0.99, 1.0),
    "fp16": Limits(MAX_DIFFERENCE, 2e-3, 2e-3, 0.999_9, 0.98, 0.9),
    "bf16": Limits(5e-2, 2e-2, 1e-2, 0.999, 0.95, 0.9),
    "int8": Limits(0.2, 5e-2, 1e-5, 0.995, 0.9, 0.8),
}

TIE: Final = 1e-4
"""If two scores of the fp32 network are closer than this, they have no order that a version could
break.
"""

BATCH: Final = 8


@dataclass(frozen=True)
class Measured:
    """A version beside the fp32 network: the fields of `Limits`, and what they were measured on."""

    pairs: int
    deviation: float
    """The deviation of the fp32 network's scores: a network with equal scores proves nothing."""
    max_difference: float
    mean_difference: float
    batch_difference: float
    pearson: float
    kendall: float
    best: float
    seconds_per_image: float
    """In the quickest of the version's batches: what else the machine does counts least there."""


def check(
    network: RewardNetwork,
    runtime: Runtime,
    questions: Questions,
    *,
    force: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure a version, compare it with its precision's limits, and return the manifest's report.

    Args:
        network: fp32, of which the version was made.
        runtime: the version, loaded.
        questions: for both of them.
        force: report the limits that are not kept, instead of raising an error for them.
        progress: called after each of `steps(questions)` steps.

    Raises:
        GateError: a limit is not kept; or a score is not finite, whatever `force` says.
    """
    precision = runtime.manifest.precision
    measured = measure(network, runtime, questions, progress)
    failures = broken(measured, LIMITS[precision], precision)
    if failures and not force:
        raise GateError(f"nothing was published: {'; '.join(failures)} (--force publishes all the same)")
    report = asdict(measured)
    return report | {
        "questions": questions.name,
        "limits": asdict(LIMITS[precision]),
        "passed": not failures,
        "failures": failures,
        "summary": summary(precision, measured, failures),
    }


def steps(questions: Questions) -> int:
    """Count the calls of `progress` during one check."""
    return len(_batches(questions)) + 2


def measure(
    network: RewardNetwork, runtime: Runtime, questions: Questions, progress: Callable[[], object]
) -> Measured:
    """Score all pairs with both.

    Raises:
        GateError: a score is not finite.
    """
    tokens, pictures = questions.rows()

    def score(rows: NDArray[np.int64]) -> Scores:
        inputs = questions.pixels[pictures[rows]], tokens.input_ids[rows], tokens.attention_mask[rows]
        return runtime.score(*inputs)[:, 0].astype(np.float64)

    expected = _reference(network, questions, tokens, pictures)
    progress()
    parts, seconds = [], []
    for rows in _batches(questions):
        started = time.perf_counter()
        parts.append(score(rows))
        seconds.append((time.perf_counter() - started) / len(rows))
        progress()
    scores = np.concatenate(parts)
    _check_finite(expected, scores)
    moved = _moved(score, scores)
    _check_finite(moved)
    progress()
    ends = np.cumsum([len(candidates) for candidates in questions.candidates])[:-1]
    ranked = list(zip(np.split(expected, ends), np.split(scores, ends), strict=True))
    differences = np.abs(scores - expected)
    return Measured(
        pairs=len(scores),
        deviation=float(expected.std()),
        max_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        batch_difference=float(np.max(moved)),
        pearson=pearson(expected, scores),
        kendall=float(np.mean([kendall(theirs, ours) for theirs, ours in ranked])),
        best=float(np.mean([theirs[ours.argmax()] > theirs.max() - TIE for theirs, ours in ranked])),
        seconds_per_image=min(seconds),
    )


def broken(measured: Measured, limits: Limits, precision: str) -> list[str]:
    """Name each limit that is not kept, and by how much."""
    failures = []
    if measured.deviation < TIE:
        failures.append(f"the network scores all {measured.pairs} pairs alike, so that nothing can be told")
    for name, text in _NAMES.items():
        value, limit = getattr(measured, name), getattr(limits, name)
        if name in _AT_LEAST and not value >= limit:
            failures.append(f"{text} is {value:.6g}, at least {limit:g} is asked for of {precision}")
        if name not in _AT_LEAST and not value <= limit:
            failures.append(f"{text} is {value:.2g}, at most {limit:g} is allowed for {precision}")
    return failures


_AT_LEAST: Final = {"pearson", "kendall", "best"}
_NAMES: Final = {
    "max_difference": "the largest difference of a score to torch's fp32",
    "mean_difference": "the mean difference to torch's fp32",
    "batch_difference": "what a score moves by with its batch mates",
    "pearson": "Pearson's correlation with torch's fp32",
    "kendall": "Kendall's rank correlation with torch's fp32",
    "best": "the share of prompts with the best candidate of torch's fp32",
}


def summary(precision: str, measured: Measured, failures: list[str]) -> str:
    """Put a report in one line, for lists and `/info`."""
    line = (
        f"{precision} differs from torch's fp32 by {measured.max_difference:.2g} at most, "
        f"{measured.mean_difference:.2g} on average, over {measured.pairs} pairs; "
        f"Pearson {measured.pearson:.4f}, Kendall {measured.kendall:.3f}, same best {measured.best:.0%}"
    )
    return f"{line}; PUBLISHED BY FORCE" if failures else line


def pearson(expected: Scores, scores: Scores) -> float:
    """Return the correlation; 0 if either side is constant."""
    if not (expected.std() and scores.std()):
        return 0.0
    return float(np.corrcoef(expected, scores)[0, 1])


def kendall(expected: Scores, scores: Scores) -> float:
    """Return Kendall's tau for one prompt's candidates; pairs that `expected` ties are left out.

    Returns:
        From -1, if all pairs are reversed, to 1; 1 if every pair ties.
    """
    first, second = np.triu_indices(len(expected), 1)
    gaps, ours = expected[first] - expected[second], scores[first] - scores[second]
    told = np.abs(gaps) >= TIE
    return float(np.mean(np.sign(gaps[told]) * np.sign(ours[told]))) if told.any() else 1.0


def _batches(questions: Questions) -> list[NDArray[np.int64]]:
    rows = np.arange(sum(map(len, questions.candidates)))
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def _reference(
    network: RewardNetwork, questions: Questions, tokens: Tokens, pictures: NDArray[np.int64]
) -> Scores:
    """Score with torch; each picture is encoded only once, which is by far the most work."""
    with torch.inference_mode():
        encoded = torch.cat(
            [network.image_encoder(batch) for batch in torch.split(torch.from_numpy(questions.pixels), BATCH)]
        )
        scores = []
        for rows in _batches(questions):
            ids, mask = (torch.from_numpy(array[rows]) for array in (tokens.input_ids, tokens.attention_mask))
            text = network.text_encoder(ids, mask, encoded[torch.from_numpy(pictures[rows])])
            scores.append(network.head(text[:, 0]))
    return torch.cat(scores)[:, 0].double().numpy()


def _check_finite(*arrays: Scores) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise GateError("nothing was published: the network gives scores that are not finite")


def _moved(score: Callable[[NDArray[np.int64]], Scores], scores: Scores) -> Scores:
    """Score some rows again, in other batches, and return by how much each score moved.

    Rows from everywhere are asked together, last first, then in threes, then alone. So they have
    prompts of other lengths beside them, other places, and batches of one, three and eight.
    """
    chosen = np.unique(np.linspace(0, len(scores) - 1, BATCH).astype(np.int64))[::-1]
    batches = [chosen, chosen[1:4], *(chosen[place : place + 1] for place in (0, 3, 6))]
    return np.concatenate([np.abs(score(rows) - scores[rows]) for rows in batches if len(rows)])
