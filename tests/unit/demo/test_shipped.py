"""The shipped version is replaced as a whole or not at all, and its report is about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from demo import shipped
from demo.evaluate import HELD_OUT_SEED, PAIRS, TESTED, Pair, evaluate, in_torch, pairs
from demo.render import draw
from demo.scenes import HELD_OUT_LOOKS, POSITIONS, SIZES, Scene, Thing, changes
from demo.training import STATE_NAME, Plan
from demo.wording import word
from export.choose import DEMO_DIRECTORY
from reward import manifest, runtimes
from reward.errors import CheckpointError
from tests.small import SMALL, save_small_checkpoint, small_network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run of a small network."""
    directory = tmp_path / "run"
    directory.mkdir()
    state = {
        "step": 5,
        "seconds": 90.0,
        "plan": asdict(Plan(steps=5, dimensions=SMALL)),
        "network": small_network().state_dict(),
    }
    torch.save(state, directory / STATE_NAME)
    return directory


def test_the_shipped_report_is_of_the_shipped_file() -> None:
    """The report names the checkpoint and the files that the shipped version's manifest names."""
    content, version = _report(), manifest.read(DEMO_DIRECTORY)
    assert version.name == shipped.NAME
    assert content["checkpoint_sha256"] == version.checkpoint_sha256
    assert content["held_out"]["files"] == version.files


def test_the_shipped_figures_meet_their_targets() -> None:
    """The figures come from the whole held-out test and meet every target.

    The rewards are standardised.
    """
    held_out = _report()["held_out"]
    assert held_out["pairs_each"] == PAIRS
    assert held_out["target"] == shipped.TARGETS
    missed = {
        name: held_out["accuracy"][name]
        for name, target in shipped.TARGETS.items()
        if held_out["accuracy"][name] < target
    }
    assert missed == {}
    assert held_out["mean"] == pytest.approx(0, abs=1e-3)
    assert held_out["deviation"] == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_figures_can_be_measured_again() -> None:
    """Taking the held-out test again with the shipped file gives the report's figures."""
    measured = shipped.figures(shipped.measure(runtimes.load(DEMO_DIRECTORY).score))
    held_out = _report()["held_out"]
    assert {name: held_out[name] for name in measured} == measured


@pytest.mark.slow
def test_every_position_is_preferred_where_it_is_asked_for() -> None:
    """For held-out looks, the shipped file prefers each position at least 90 times in 100.

    The held-out test itself asks for only two positions, because its places are held out as well.
    """
    measured = evaluate(runtimes.load(DEMO_DIRECTORY).score, _pairs_of_every_position(100))
    right = {position: measured.accuracies[f"position / {position}"].right for position in POSITIONS}
    assert min(right.values()) >= 90, right


def test_a_run_becomes_a_shipped_file_with_its_report(run: Path, tmp_path: Path) -> None:
    """The report describes the training, with the figures of the published, calibrated version."""
    directory, path = tmp_path / "model", tmp_path / "report.json"
    measured = shipped.ship(run, directory, path, pairs_each=2, quiet=True)
    content = json.loads(path.read_text())
    assert content["checkpoint_sha256"] == manifest.read(directory).checkpoint_sha256
    assert content["training"]["minutes"] == 1.5
    assert content["training"]["plan"]["steps"] == content["training"]["steps"] == 5
    before = evaluate(in_torch(small_network()), pairs(HELD_OUT_SEED, 2))
    assert before.accuracies == measured.accuracies
    assert content["before_calibration"] == pytest.approx(
        {"mean": before.mean, "deviation": before.deviation}, rel=1e-4
    )
    assert set(content) == set(_report())
    assert set(content["held_out"]) == set(_report()["held_out"])
    assert set(content["held_out"]["accuracy"]) == set(TESTED)
    assert (content["held_out"]["mean"], content["held_out"]["deviation"]) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.usefixtures("exported_once")
def test_publishing_replaces_what_is_shipped(tmp_path: Path) -> None:
    """Nothing is left of the old version, and the new one can be loaded."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "old").touch()
    shipped.publish(save_small_checkpoint(tmp_path / "small.safetensors"), directory, quiet=True)
    names = {path.name for path in directory.iterdir()}
    assert names == {manifest.FILE_NAME, "model.py", "network.onnx", "network.onnx.data"}
    assert runtimes.load(directory, threads=1).manifest.name == shipped.NAME


def test_what_cannot_be_published_changes_nothing(tmp_path: Path) -> None:
    """A file that is no checkpoint leaves the shipped version as it was, and leaves no draft."""
    directory, wrong = tmp_path / "model", tmp_path / "wrong.safetensors"
    directory.mkdir()
    (directory / "old").touch()
    wrong.write_bytes(b"text")
    with pytest.raises(CheckpointError):
        shipped.publish(wrong, directory, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "wrong.safetensors"}
    assert {path.name for path in directory.iterdir()} == {"old"}


def _report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(shipped.REPORT.read_text())
    return content


def _pairs_of_every_position(number: int) -> Iterator[Pair]:
    rng = np.random.default_rng(0)
    looks = sorted(HELD_OUT_LOOKS)
    for position in POSITIONS:
        for _ in range(number):
            colour, shape = looks[int(rng.integers(len(looks)))]
            scene = Scene((Thing(colour, shape, str(rng.choice(SIZES))),), position=position)
            others = changes(scene, "position", allow_held_out=True)
            other = others[int(rng.integers(len(others)))]
            better, worse = (draw(drawn, rng).pixels for drawn in (scene, other))
            yield Pair("position", position, word(scene, rng), better, worse)
