"""What is read from the model repository."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from frontend.triton.errors import NotReady
from frontend.triton.served import Role, read_served
from reward import deployment
from tests.unit.frontend.triton.stand_in import deploy, publish_manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version in (3, 4, 5):
        publish_manifest(tmp_path, version=version)
    return tmp_path


def test_without_a_deployment_the_newest_is_served(repository: Path) -> None:
    """Without a deployment the newest version is served, as by a Triton started on the folder."""
    served = read_served(repository, "2.51")
    assert [(one.version, one.role, one.share) for one in served.versions] == [("5", Role.STABLE, 1.0)]
    assert (served.device, served.triton_version) == ("cpu", "2.51")


def test_all_that_is_deployed(repository: Path) -> None:
    """Stable version, canary and shadow are read, each with its share and its own manifest."""
    deploy(repository, 3, "gpu", canary=(5, 0.05), shadow=(4, 0.5))
    served = read_served(repository, "")
    assert served.device == "gpu"
    assert [(one.version, one.role, one.share) for one in served.versions] == [
        ("3", Role.STABLE, 1.0),
        ("5", Role.CANARY, 0.05),
        ("4", Role.SHADOW, 0.5),
    ]
    assert [one.manifest.checkpoint_sha256[0] for one in served.versions] == ["3", "5", "4"]
    assert served.find("4") is served.shadow
    assert served.find("6") is None
    assert served.troubles == {}


def test_a_canary_that_cannot_be_used_is_left_out(repository: Path) -> None:
    """A canary that is missing or for another preprocessing is left out, and the reason is told.

    The stable version serves.
    """
    publish_manifest(repository, version=6, preprocessing="another")
    deploy(repository, 3, canary=(6, 0.5), shadow=(7, 0.5))
    served = read_served(repository, "")
    assert [one.version for one in served.versions] == ["3"]
    assert served.troubles == {
        "canary": "version 6: the served version was published for another preprocessing",
        "shadow": "version 7: the served version has no readable manifest",
    }


@pytest.mark.parametrize(("stable", "reason"), [(6, "another preprocessing"), (7, "no readable manifest")])
def test_a_stable_version_that_cannot_be_used(repository: Path, stable: int, reason: str) -> None:
    """A stable version for another preprocessing is not served: no score beats a wrong score."""
    publish_manifest(repository, version=6, preprocessing="another")
    deploy(repository, stable)
    with pytest.raises(NotReady, match=reason):
        read_served(repository, "")


def test_what_computes_the_scores_is_told(repository: Path) -> None:
    """It is the version's own runtime, unless Triton runs its graph by a backend of its own."""
    deploy(repository, 3)
    served = read_served(repository, "")
    assert served.runtime(served.stable) == served.stable.manifest.runtime
    text = json.dumps({"stable": 3, "device": "gpu", "backend": "tensorrt"})
    deployment.path(repository).write_text(text)
    served = read_served(repository, "")
    assert (served.device, served.runtime(served.stable)) == ("gpu", "triton-tensorrt")
