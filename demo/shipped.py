"""The demonstration model as it is shipped: a published version, and its `report.json`.

The held-out test is taken twice. First it is taken in torch, because the calibration needs its mean
and deviation. Then it is taken through the published graph, because that is what is served. The
report's figures are those of the second test.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tqdm import tqdm

from demo import evaluate
from demo.evaluate import HELD_OUT_SEED, PAIRS, TESTED, Report, in_torch
from demo.training import load_network, read_state
from export.publish import Recipe, write_version
from reward import runtimes
from reward.checkpoint import save
from reward.files import sha256

if TYPE_CHECKING:
    from demo.evaluate import Scorer

NAME: Final = "demonstration model (not ImageReward)"
"""The name in the manifest, and so in every response."""

REPORT: Final = Path(__file__).with_name("report.json")
CHECKPOINT_NAME: Final = "demo.safetensors"
TARGETS: Final = {"colour": 0.95, "shape": 0.9, "size": 0.9, "position": 0.9, "damage": 0.9}


def ship(run: Path, directory: Path, report: Path, *, pairs_each: int = PAIRS, quiet: bool = False) -> Report:
    """Calibrate a run, publish it in place of what is in `directory`, measure and report.

    Raises:
        GateError: the graph is too far from torch; the old version stays.
    """
    state = read_state(run)
    network = load_network(state)
    uncalibrated = measure(in_torch(network), pairs_each, quiet=quiet)
    evaluate.calibrate(network, uncalibrated)
    checkpoint = run / CHECKPOINT_NAME
    save(network, checkpoint)
    publish(checkpoint, directory, quiet=quiet)
    published = runtimes.load(directory)
    measured = measure(published.score, pairs_each, quiet=quiet)
    content = {
        "checkpoint_sha256": sha256(checkpoint),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training": {
            "plan": state["plan"],
            "steps": state["step"],
            "minutes": round(state["seconds"] / 60, 1),
            "cores": os.cpu_count(),
            "processor": platform.machine(),
        },
        "before_calibration": {"mean": uncalibrated.mean, "deviation": uncalibrated.deviation},
        "held_out": {
            "files": published.manifest.files,
            "seed": HELD_OUT_SEED,
            "pairs_each": pairs_each,
            "target": TARGETS,
            **figures(measured),
        },
    }
    report.write_text(json.dumps(content, indent=2) + "\n")
    return measured


def publish(checkpoint: Path, directory: Path, *, quiet: bool = False) -> None:
    """Export a checkpoint, compare it with torch, and replace what is in `directory` with it.

    Raises:
        CheckpointError: the file is no checkpoint of this network.
        GateError: the graph is too far from torch; the old version stays.
    """
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        draft = Path(temporary) / directory.name
        draft.mkdir()
        write_version(draft, Recipe(checkpoint, NAME), show_progress=not quiet)
        if directory.exists():
            shutil.rmtree(directory)
        draft.rename(directory)


def measure(score: Scorer, pairs_each: int = PAIRS, *, quiet: bool = False) -> Report:
    """Take the held-out test."""
    tested = evaluate.pairs(HELD_OUT_SEED, pairs_each)
    return evaluate.evaluate(score, tqdm(tested, total=pairs_each * len(TESTED), unit="pair", disable=quiet))


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
