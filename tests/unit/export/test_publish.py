"""A checkpoint becomes a published version, or is refused and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from export import gates
from export.__main__ import main
from export.errors import GateError
from export.publish import Recipe, publish
from export.registry import Registry
from reward import manifest, preprocess, runtimes
from reward.files import sha256
from tests.pictures import PHOTOGRAPHS, photograph
from tests.repository import CHECKOUT, copy_repository
from tests.small import save_small_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def _export(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export", "--repository", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_manifest_tells_the_origin(published_repository: Path) -> None:
    """The manifest holds every digest, the agreement with torch, and the tools.

    The digests are those of the files, of the checkpoint and of the preprocessing.
    """
    directory = published_repository / "image_reward_network" / "1"
    content = manifest.read(directory)
    assert content.name == "small random network"
    assert content.preprocessing == preprocess.digest()
    assert set(content.files) == {"model.py", "network.onnx", "network.onnx.data"}
    assert {name: sha256(directory / name) for name in content.files} == content.files
    assert content.precision == "fp32"
    report = content.gates or {}
    assert report["max_difference"] <= 1e-5
    assert report["batch_difference"] <= 1e-5
    assert report["deviation"] > 0.1
    assert report["failures"] == []
    assert report["summary"].startswith("fp32 differs from torch's fp32 by ")
    assert content.tools["torch"].startswith("2.13.0")


def test_the_graph_names_no_path_of_the_machine(published_repository: Path) -> None:
    """A published graph holds no paths, although the exporter records stack traces."""
    graph = (published_repository / "image_reward_network" / "1" / "network.onnx").read_bytes()
    assert str(CHECKOUT).encode() not in graph
    assert b"site-packages" not in graph


@pytest.mark.usefixtures("exported_once")
def test_what_is_too_far_from_fp32_is_published_by_force_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is too far from fp32 is refused, with measure, value and limit.

    Nothing is left of it. By force it is published, and its manifest says so.
    """
    registry = Registry(copy_repository(tmp_path / "model_repository"))
    recipe = Recipe(save_small_checkpoint(tmp_path / "small.safetensors"), "x")
    monkeypatch.setitem(gates.LIMITS, "fp32", dataclasses.replace(gates.LIMITS["fp32"], max_difference=0))
    with pytest.raises(
        GateError,
        match=r"^nothing was published: the largest difference of a score to torch's fp32 is "
        r"\S+, at most 0 is allowed for fp32 \(--force publishes all the same\)$",
    ):
        publish(registry, recipe, show_progress=False)
    assert registry.versions() == []
    assert not list(registry.directory(1).parent.glob(".publishing-*"))
    number = publish(registry, dataclasses.replace(recipe, force=True), show_progress=False)
    report = registry.version(number).manifest.gates or {}
    assert report["passed"] is False
    assert len(report["failures"]) == 1
    assert report["summary"].endswith("PUBLISHED BY FORCE")


@pytest.mark.usefixtures("exported_once")
def test_int8_is_published_behind_its_gate(published_repository: Path, tmp_path: Path) -> None:
    """int8 has a third of the size, is near enough to fp32, and is known by its precision."""
    registry = Registry(copy_repository(tmp_path / "model_repository"))
    weights = published_repository.parent / "small.safetensors"
    number = publish(registry, Recipe(weights, "small", precision="int8"), show_progress=False)
    content = registry.version(number).manifest
    assert content.precision == "int8"
    report = content.gates or {}
    assert report["failures"] == []
    assert 1e-4 < report["max_difference"] < 0.05
    assert report["batch_difference"] == 0
    assert report["questions"] == "built-in"
    assert runtimes.load(registry.directory(number)).manifest == content


@pytest.mark.usefixtures("exported_once")
def test_ones_own_questions_judge_and_calibrate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--gate-set` and `--calibration` name directories of images and prompts."""
    repository = copy_repository(tmp_path / "model_repository")
    weights = save_small_checkpoint(tmp_path / "small.safetensors")
    own = tmp_path / "own"
    own.mkdir()
    names = [f"{name}.jpg" for name in PHOTOGRAPHS[:3]]
    for name in names:
        (own / name).write_bytes(photograph(name.removesuffix(".jpg")))
    (own / "prompts.json").write_text(json.dumps([{"prompt": "a cup", "images": names}]))
    arguments = ["--checkpoint", str(weights), "--name", "small", "--precision", "int8", "--quiet"]
    sets = ["--gate-set", str(own), "--calibration", str(own)]
    assert main(["--repository", str(repository), "publish", *arguments, *sets]) == 0
    assert "int8 differs from torch's fp32 by" in capsys.readouterr().out
    report = Registry(repository).version(1).manifest.gates or {}
    assert (report["questions"], report["pairs"]) == ("own", 3)


def test_the_command_publishes(tmp_path: Path) -> None:
    """The command shows its progress and prints the path of the version.

    `ensure` then has nothing to publish.
    """
    repository = copy_repository(tmp_path / "model_repository")
    weights = save_small_checkpoint(tmp_path / "small.safetensors")
    first = _export(repository, "publish", "--checkpoint", str(weights), "--name", "small", "--promote")
    assert first.returncode == 0, first.stderr
    assert "compare with torch" in first.stderr  # the progress bar
    assert f"published {repository}/image_reward_network/1: small" in first.stdout
    again = _export(repository, "ensure", "--checkpoint", str(weights))
    assert again.stdout == "model     small, version 1\n"
    assert "1 served               small" in _export(repository, "list").stdout


def test_a_wrong_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong checkpoint gives one line that says what is wrong, and exit status 1."""
    repository = copy_repository(tmp_path / "model_repository")
    wrong = tmp_path / "wrong.pt"
    wrong.write_bytes(b"text")
    arguments = ["--checkpoint", str(wrong), "--name", "x", "--quiet"]
    assert main(["--repository", str(repository), "publish", *arguments]) == 1
    says = f"error: {wrong}: not a checkpoint of tensors alone (loaded with weights_only=True)\n"
    assert capsys.readouterr().err == says
