"""What a version must pass before it is published: its scores beside those of the fp32 network.

Both score the same questions (`export.questions`). Nothing is published that scores a pair with
what is no number; below another limit of its precision only `--force` publishes, and the manifest
says so. Why each limit is what it is: docs/decisions/gates.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from export.errors import GateError

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
    """Of one score."""
    mean_difference: float
    """Mean of all |differences|."""
    batch_difference: float
    """Of one pair's score alone, beside others and at another place of a batch."""
    pearson: float
    """Least correlation over all pairs."""
    kendall: float
    """Least rank correlation of one prompt's candidates, as the mean over the prompts."""
    best: float
    """Least share of prompts for which both name the same candidate the best (of ten, built in)."""


LIMITS: Final = {
    "fp32": Limits(1e-4, 2e-5, 1e-5, 0.999_99, 0.99, 1.0),
    "fp16": Limits(1e-2, 2e-3, 2e-3, 0.999_9, 0.98, 0.9),
    "bf16": Limits(5e-2, 2e-2, 1e-2, 0.999, 0.95, 0.9),
    "int8": Limits(0.2, 5e-2, 1e-5, 0.995, 0.9, 0.8),
}

TIE: Final = 1e-4
"""Scores of the fp32 network that are closer are no order that a version could break."""

BATCH: Final = 8


@dataclass(frozen=True)
class Measured:
    """A version beside the fp32 network; the fields of `Limits`, and what they were measured on."""

    pairs: int
    deviation: float
    """Of the fp32 network's scores: one that answers alike to everything proves nothing."""
    max_difference: float
    mean_difference: float
    batch_difference: float
    pearson: float
    kendall: float
    best: float


def check(
    network: RewardNetwork,
    runtime: Runtime,
    questions: Questions,
    *,
    force: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure a version and hold it against its precision's limits; return the manifest's report.

    Args:
        network: fp32, of which the version was made.
        runtime: the version, loaded.
        questions: what both are asked.
        force: report the limits that are not kept instead of raising for them.
        progress: called after each of `steps(questions)` steps.

    Raises:
        GateError: a limit is not kept, or a score is not finite, whatever `force` says.
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
    """Count the calls of `progress` of one check."""
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
    parts = []
    for rows in _batches(questions):
        parts.append(score(rows))
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
    )


def broken(measured: Measured, limits: Limits, precision: str) -> list[str]:
    """Say of each limit that is not kept which it is and by how much."""
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
    """Correlate; 0 where either side is the same everywhere."""
    if not (expected.std() and scores.std()):
        return 0.0
    return float(np.corrcoef(expected, scores)[0, 1])


def kendall(expected: Scores, scores: Scores) -> float:
    """Give Kendall's tau of one prompt's candidates; pairs that tie by `expected` are left out.

    Returns:
        From -1, all pairs the other way round, to 1; 1 where every pair ties.
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
    """Score with torch; each picture goes through the image encoder, by far the most work, once."""
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
    """Score some rows again, in other batches, and return by how much each moved.

    Rows from all over are asked together, last first, then in threes, then alone: prompts of other
    lengths beside them, another place, and batches of one, three and eight.
    """
    chosen = np.unique(np.linspace(0, len(scores) - 1, BATCH).astype(np.int64))[::-1]
    batches = [chosen, chosen[1:4], *(chosen[place : place + 1] for place in (0, 3, 6))]
    return np.concatenate([np.abs(score(rows) - scores[rows]) for rows in batches if len(rows)])
