"""The shipped version is replaced as a whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from demo import shipped
from reward import manifest, runtimes
from reward.errors import CheckpointError
from tests.small import save_small_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_publishing_replaces_what_is_shipped(tmp_path: Path) -> None:
    """Nothing is left of the old version, and the new one can be loaded."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "old").touch()
    shipped.publish(save_small_checkpoint(tmp_path / "small.safetensors"), directory, show_progress=False)
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
        shipped.publish(wrong, directory, show_progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "wrong.safetensors"}
    assert {path.name for path in directory.iterdir()} == {"old"}
