"""A model that could not be loaded is refused before anything is started."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from export.deployment_store import DeploymentStore
from local.device import check_device
from local.errors import LocalError
from model_boss.memory import DeviceMemory
from reward import manifest
from reward.contract import NETWORK
from reward.deployment import Deployment
from tests.gpu_version import write_gpu_version
from tests.repository import copy_repository

if TYPE_CHECKING:
    from pathlib import Path


class Meter:
    """A GPU of 4,000 MiB, of which so much is in use; or none."""

    def __init__(self, used_mb: int | None) -> None:
        self._used_mb = used_mb

    def read(self, gpu: str) -> DeviceMemory | None:
        """Measure it."""
        assert gpu.endswith(":0")
        return None if self._used_mb is None else DeviceMemory(4000, self._used_mb)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that serves a version for a GPU, of 1,500 MiB."""
    repository = copy_repository(tmp_path / "model_repository")
    directory = write_gpu_version(repository / NETWORK.name / "1", "fp16")
    manifest.write(dataclasses.replace(manifest.read(directory), vram_mb=1500), directory)
    DeploymentStore(repository).write(Deployment(1, device="gpu"))
    return repository


def test_a_gpu_with_room_will_do(repository: Path) -> None:
    """A GPU with room will do; one that is shared need not have it now."""
    check_device(repository, None, is_shared=False, meter=Meter(2500))
    check_device(repository, "gpu", is_shared=True, meter=Meter(2501))
    with pytest.raises(LocalError, match="the GPU has 1499 of 4000 MiB free, and 1500 are needed"):
        check_device(repository, "gpu", is_shared=False, meter=Meter(2501))


def test_without_a_gpu_nothing_starts_on_the_cpu(repository: Path) -> None:
    """Where no driver answers, a model for a GPU is refused."""
    with pytest.raises(LocalError, match="version 1 is served on a GPU, and none answers here"):
        check_device(repository, None, is_shared=True, meter=Meter(None))


def test_a_model_of_another_device_is_refused(repository: Path) -> None:
    """`--device` starts nothing else than what it names; the CPU needs no GPU."""
    with pytest.raises(LocalError, match="version 1 is served on the gpu: promote one"):
        check_device(repository, "cpu", is_shared=False, meter=Meter(0))
    DeploymentStore(repository).write(Deployment(1))
    check_device(repository, "cpu", is_shared=False, meter=Meter(None))
    with pytest.raises(LocalError, match=r"version 1 is served on the cpu: .*--device gpu"):
        check_device(repository, "gpu", is_shared=False, meter=Meter(0))
