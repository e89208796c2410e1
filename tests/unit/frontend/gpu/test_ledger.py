"""How much of the GPU's memory is asked for, and which versions must be there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from frontend.gpu.ledger import needed_mb, served_versions
from frontend.triton.errors import NotReady
from reward import deployment, manifest
from reward.contract import NETWORK
from reward.manifest import Manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three versions, the last of which nobody measured; none of them is deployed."""
    for version, vram_mb in ((1, 1000), (2, 1200), (3, None)):
        directory = tmp_path / NETWORK.name / str(version)
        directory.mkdir(parents=True)
        content = Manifest("n", "0" * 64, "fp32", "onnxruntime", 18, "p", {}, {}, {}, "now", vram_mb)
        manifest.write(content, directory)
    return tmp_path


def _deploy(repository: Path, **content: object) -> None:
    path = deployment.path(repository)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def test_what_is_served_and_what_is_loaded_is_added_up(repository: Path) -> None:
    """What is served and what is loaded beside it is added up.

    A canary stays beside the stable version, and a promotion loads another beside both.
    """
    assert needed_mb(repository) == 2048
    _deploy(repository, stable=1)
    assert needed_mb(repository) == 1000
    assert needed_mb(repository, {1}) == 1000
    assert needed_mb(repository, {1, 2}) == 2200
    _deploy(repository, stable=1, canary={"version": 2, "share": 0.05})
    assert needed_mb(repository) == needed_mb(repository, {1, 2}) == 2200
    assert needed_mb(repository, {1, 2, 3}) == 4248


def test_an_operator_knows_better(repository: Path) -> None:
    """AESTHETIC_VRAM_MB counts for every version, even if no repository can be read."""
    _deploy(repository, stable=1, shadow={"version": 2, "share": 0.05})
    assert needed_mb(repository, each_mb=700) == 1400
    assert needed_mb(repository, {1, 2, 3}, each_mb=700) == 2100
    assert needed_mb(repository / "elsewhere", each_mb=700) == 700
    assert needed_mb(repository / "elsewhere", {1, 2}, each_mb=700) == 1400


def test_a_version_that_was_deleted_by_hand(repository: Path) -> None:
    """If a loaded version was deleted by hand, nobody knows what it takes.

    Without the stable version there is nothing to load.
    """
    _deploy(repository, stable=1, canary={"version": 9, "share": 0.05})
    assert needed_mb(repository, {1, 9}) == 3048
    assert served_versions(repository) == (1,)
    _deploy(repository, stable=9)
    with pytest.raises(NotReady, match="no version is promoted"):
        needed_mb(repository)


def test_the_versions_that_have_to_be_there(repository: Path) -> None:
    """The deployed versions must be there; without a readable deployment, any version will do."""
    assert served_versions(repository) == ()
    assert served_versions(repository / "elsewhere") == ()
    _deploy(repository, stable=2, canary={"version": 3, "share": 0.05}, shadow={"version": 1, "share": 1})
    assert served_versions(repository) == (2, 3, 1)
    deployment.path(repository).write_text("{")
    assert served_versions(repository) == ()
