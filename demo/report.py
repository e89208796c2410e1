"""`report.json`: how the demonstration model was trained, and how well the shipped file does.

It is written in two parts. `begin` knows the run: it calibrates and writes the model, and notes the training.
`verify` knows nothing but the published version that is shipped: it adds the figures of the held-out test. The
checkpoint's digest, which the version's manifest names, ties the two together.
"""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Any, Final

from tqdm import tqdm

from demo import evaluate, shipped
from demo.errors import ReportError
from demo.evaluate import HELD_OUT_SEED, PAIRS, TESTED, Report
from demo.training import load_state, read_state
from reward import runtimes
from reward.checkpoint import save
from reward.files import sha256
from reward.network import Dimensions

if TYPE_CHECKING:
    from pathlib import Path

    from demo.evaluate import Rewards

TARGETS: Final = {"colour": 0.95, "shape": 0.9, "size": 0.9, "position": 0.9, "damage": 0.9}


def begin(run: Path, model: Path, report: Path, *, pairs_each: int = PAIRS) -> Report:
    """Calibrate a run by the held-out test, write its model, and begin a report; return the figures in torch."""
    state = read_state(run)
    network = load_state(run, Dimensions(**state["plan"]["dimensions"]))
    measured = measure(evaluate.rewards_of(network), pairs_each)
    evaluate.calibrate(network, measured)
    save(network, model)
    content = {
        "checkpoint_sha256": sha256(model),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training": _training(state),
        "before_calibration": {"mean": measured.mean, "deviation": measured.deviation},
    }
    _write(report, content)
    return measured


def verify(directory: Path, report: Path, *, pairs_each: int = PAIRS) -> Report:
    """Take the held-out test with a published version, and complete the report of its checkpoint.

    Raises:
        ReportError: the report is missing, or of another checkpoint.
        VersionError: no version lies in `directory`, or it is damaged.
    """
    scorer = runtimes.load(directory)
    content = read(report)
    digest = scorer.manifest.checkpoint_sha256
    if content["checkpoint_sha256"] != digest:
        raise ReportError(
            f"{report} is of the checkpoint {content['checkpoint_sha256'][:12]}, {directory} of {digest[:12]}"
        )
    measured = measure(shipped.rewards_of(scorer), pairs_each)
    held_out = {
        "files": scorer.manifest.files,
        "seed": HELD_OUT_SEED,
        "pairs_each": pairs_each,
        "target": TARGETS,
        **figures(measured),
    }
    _write(report, content | {"held_out": held_out})
    return measured


def measure(rewards: Rewards, pairs_each: int = PAIRS) -> Report:
    """Take the held-out test."""
    tested = evaluate.pairs(HELD_OUT_SEED, pairs_each)
    return evaluate.evaluate(rewards, tqdm(tested, total=pairs_each * len(TESTED), unit="pair"))


def figures(measured: Report) -> dict[str, Any]:
    """Round what was measured, as the report holds it."""
    return {
        "accuracy": {name: round(measured.accuracies[name].share, 4) for name in TESTED},
        "by_group": {
            name: {"accuracy": round(accuracy.share, 4), "pairs": accuracy.pairs}
            for name, accuracy in sorted(measured.accuracies.items())
            if name not in TESTED
        },
        "mean": round(measured.mean, 4) + 0.0,  # no negative zero
        "deviation": round(measured.deviation, 4),
    }


def read(report: Path) -> dict[str, Any]:
    """Read a report.

    Raises:
        ReportError: it is missing.
    """
    try:
        content: dict[str, Any] = json.loads(report.read_text())
    except OSError as error:
        raise ReportError(f"{report}: cannot be read: {error.strerror}") from error
    return content


def _training(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "plan": state["plan"],
        "steps": state["step"],
        "minutes": round(state["seconds"] / 60, 1),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
    }


def _write(report: Path, content: dict[str, Any]) -> None:
    report.write_text(json.dumps(content, indent=2) + "\n")
