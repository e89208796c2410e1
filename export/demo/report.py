"""A trained run -> the calibrated model and the figures of its held-out test."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Final

import torch

from export.demo.evaluate import (
    HELD_OUT_SEED,
    PAIRS,
    TESTED,
    Report,
    calibrate,
    evaluate,
    pairs,
    rewards_of,
)
from export.demo.training import STATE_NAME, load_state
from reward.checkpoint import save

if TYPE_CHECKING:
    from pathlib import Path

TARGETS: Final = {"colour": 0.95, "shape": 0.9, "size": 0.9, "position": 0.9, "damage": 0.9}


def finish(run: Path, model: Path, report: Path, pairs_each: int = PAIRS) -> Report:
    """Test a run on what was held out, calibrate it, and write model and report."""
    network = load_state(run)
    measured = evaluate(rewards_of(network), pairs(HELD_OUT_SEED, pairs_each))
    calibrate(network, measured)
    save(network, model)
    state = torch.load(run / STATE_NAME, weights_only=True)
    entry = {
        "accuracy": {name: round(measured.accuracies[name].share, 4) for name in TESTED},
        "target": TARGETS,
        "by_group": {
            name: {"accuracy": round(accuracy.share, 4), "pairs": accuracy.pairs}
            for name, accuracy in sorted(measured.accuracies.items())
            if name not in TESTED
        },
        "pairs_each": pairs_each,
        "held_out_seed": HELD_OUT_SEED,
        "before_calibration": {"mean": measured.mean, "deviation": measured.deviation},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training": {
            "plan": state["plan"],
            "steps": state["step"],
            "minutes": round(state["seconds"] / 60, 1),
        },
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
    }
    report.write_text(json.dumps(entry, indent=2) + "\n")
    return measured
