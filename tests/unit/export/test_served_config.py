"""The configurations that Triton gets: how large an execution may be, by device and version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.served_config import ensemble_config, network_config, network_settings
from reward.deployment import Deployment
from tests.repository import copy_repository
from tests.unit.frontend.triton.stand_in import publish_manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Version 3 takes a second an image, 4 a hundredth of one, and 5 was not measured."""
    repository = copy_repository(tmp_path / "model_repository")
    publish_manifest(repository, version=3, seconds_per_image=1.0)
    publish_manifest(repository, version=4, seconds_per_image=0.01)
    publish_manifest(repository, version=5)
    return repository


def _rows(text: str) -> int:
    config: Any = text_format.Parse(text, model_config_pb2.ModelConfig())
    return int(config.max_batch_size)


@pytest.mark.parametrize(("loaded", "rows"), [([3], 4), ([4], 64), ([5], 8), ([3, 4], 4), ([9], 64)])
def test_on_a_cpu_the_slowest_version_sets_the_largest_batch(
    repository: Path, loaded: list[int], rows: int
) -> None:
    """Network and ensemble take as many rows as the slowest loaded version does in seconds."""
    served = Deployment(loaded[0])
    assert _rows(network_config(repository, served, loaded)) == rows
    assert _rows(ensemble_config(repository, served, loaded)) == rows


def test_on_a_gpu_the_largest_batch_is_the_contracts(repository: Path) -> None:
    """What a version takes on a CPU says nothing of a GPU."""
    served = Deployment(3, device="gpu")
    assert _rows(network_config(repository, served, [3])) == 64
    assert _rows(ensemble_config(repository, served, [3])) == 64


def test_a_trial_has_the_served_settings(repository: Path) -> None:
    """A version is tried with the settings that it would be served with."""
    assert network_settings(repository, Deployment(3))["max_batch_size"] == 4
