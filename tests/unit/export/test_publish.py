"""A checkpoint becomes a published version, or is refused and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from export import publish as publishing
from export.errors import ParityError
from export.registry import Registry
from reward import manifest, preprocess
from reward.files import sha256
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
    assert content.parity["max_difference"] <= 1e-4
    assert content.parity["max_batch_difference"] <= 1e-5
    assert content.parity["score_range"] > 0.1
    assert content.tools["torch"].startswith("2.13.0")


def test_the_graph_names_no_path_of_the_machine(published_repository: Path) -> None:
    """A published graph holds no paths, although the exporter records stack traces."""
    graph = (published_repository / "image_reward_network" / "1" / "network.onnx").read_bytes()
    assert str(CHECKOUT).encode() not in graph
    assert b"site-packages" not in graph


def test_a_graph_that_differs_is_not_published(tmp_path: Path) -> None:
    """If the graph differs by more than the tolerance, publishing fails and no version appears."""
    registry = Registry(copy_repository(tmp_path / "model_repository"))
    weights = save_small_checkpoint(tmp_path / "small.safetensors")
    with pytest.raises(ParityError, match="nothing was published"):
        publishing.publish(registry, publishing.Recipe(weights, "x", tolerance=0), show_progress=False)
    assert registry.versions() == []


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


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    """A wrong checkpoint gives one line that says what is wrong, and exit status 1."""
    repository = copy_repository(tmp_path / "model_repository")
    wrong = tmp_path / "wrong.pt"
    wrong.write_bytes(b"text")
    done = _export(repository, "publish", "--checkpoint", str(wrong), "--name", "x", "--quiet")
    assert done.returncode == 1
    assert (
        done.stderr == f"error: {wrong}: not a checkpoint of tensors alone (loaded with weights_only=True)\n"
    )
