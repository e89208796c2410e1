"""What is served is written whole or not at all, whatever kills the writing process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.deployment_store import DeploymentStore
from export.errors import Busy, CannotWrite, RegistryError
from reward import deployment
from reward.deployment import Change, Deployment, Share
from tests.repository import CHECKOUT, copy_repository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# This script does what `_write_two` does, and kills itself before the named step.
_WRITER: Final = """
import os, signal, sys
from pathlib import Path
from export.deployment_store import DeploymentStore
from reward.deployment import Deployment
repository, last = Path(sys.argv[1]), sys.argv[2]

def step(name):
    if name == last:
        os.kill(os.getpid(), signal.SIGKILL)

store = DeploymentStore(repository, step=step)
with store.locked():
    store.write(Deployment(2))
"""


def _write_two(repository: Path, step: Callable[[str], None] = lambda _: None) -> None:
    """Write version 2 in place of what is served; `step` is told of each step before it is made."""
    store = DeploymentStore(repository, step=step)
    with store.locked():
        store.write(Deployment(2))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository without versions, since the store does not ask for them."""
    return copy_repository(tmp_path / "model_repository")


def _configs(repository: Path) -> tuple[list[int], int, str]:
    """Return what Triton would read: versions to load, the ensemble's version, and the device."""
    network, ensemble = (
        text_format.Parse(
            (repository / model / "configs" / "served.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
        for model in ("image_reward_network", "image_reward")
    )
    steps = {step.model_name: step.model_version for step in ensemble.ensemble_scheduling.step}
    assert steps["image_reward_preprocess"] == 1  # it keeps its own
    kind = model_config_pb2.ModelInstanceGroup.Kind.Name(network.instance_group[0].kind)
    return list(network.version_policy.specific.versions), steps["image_reward_network"], kind


def test_a_deployment_is_read_as_it_was_written(repository: Path) -> None:
    """A deployment is read with its canary, its shadow and its history.

    Triton loads all its versions, and the ensemble uses the stable one.
    """
    store = DeploymentStore(repository)
    assert store.read() is None
    change = Change("2026-01-01T00:00:00+00:00", "Zoë", "canary", 3, 4, "tried on 5 %")
    content = Deployment(3, Share(4, 0.05), Share(5, 0.5), "gpu", (change,))
    store.write(content)
    assert deployment.read(repository) == store.read() == content
    assert _configs(repository) == ([3, 4, 5], 3, "KIND_GPU")
    assert store.is_written(content)
    store.write(Deployment(3), loaded=[3, 4])
    assert _configs(repository) == ([3, 4], 3, "KIND_CPU")
    assert not store.is_written(Deployment(3))  # more is loaded than is served


def test_all_else_of_the_tracked_configurations_stays(repository: Path) -> None:
    """The tracked configurations are not written to.

    The rendered ones differ from them only in the version and the device.
    """
    DeploymentStore(repository).write(Deployment(3))
    for model in ("image_reward_network", "image_reward"):
        tracked = (repository / model / "config.pbtxt").read_text()
        assert tracked == (CHECKOUT / "model_repository" / model / "config.pbtxt").read_text()
        plain = text_format.Parse(tracked, model_config_pb2.ModelConfig())
        text = (repository / model / "configs" / "served.pbtxt").read_text()
        served = text_format.Parse(text, model_config_pb2.ModelConfig())
        for config in (plain, served):
            config.version_policy.Clear()
            for step in config.ensemble_scheduling.step:
                step.model_version = 0
        assert served == plain


@pytest.mark.parametrize("has_one", [True, False])
def test_a_writer_that_is_killed_leaves_the_old_or_the_new(repository: Path, *, has_one: bool) -> None:
    """A writer may be killed at every step, even of the very first writing.

    The next writer is not hindered.
    """
    names: list[str] = []
    _write_two(copy_repository(repository.parent / "steps"), names.append)
    assert len(names) == 6
    seen = set()
    for number, name in enumerate(names):
        own = copy_repository(repository.parent / str(number))
        if has_one:
            DeploymentStore(own).write(Deployment(1))
        killed = subprocess.run([sys.executable, "-c", _WRITER, own, name], capture_output=True, check=False)
        assert killed.returncode == -9
        found = DeploymentStore(own).read()
        assert found in ((Deployment(1), Deployment(2)) if has_one else (None, Deployment(2)))
        if found is not None:
            assert _configs(own) == ([found.stable], found.stable, "KIND_CPU")
        seen.add(found and found.stable)
        _write_two(own)
        assert _configs(own) == ([2], 2, "KIND_CPU")
        generations = own / "image_reward_network" / "configs" / "generations"
        assert all(entry.name.isdecimal() for entry in generations.iterdir())
    assert seen == {1 if has_one else None, 2}


def test_one_writer_at_a_time(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second writer is refused until the first one has ended."""
    monkeypatch.setattr("export.deployment_store._LOCK_TIMEOUT_S", 0)
    second = DeploymentStore(repository).locked()
    with DeploymentStore(repository).locked(), pytest.raises(Busy, match="another command"), second:
        pass
    with DeploymentStore(repository).locked():
        pass


def test_old_generations_go(repository: Path) -> None:
    """A few old generations stay, for readers that followed the link a moment ago."""
    store = DeploymentStore(repository)
    for number in range(1, 21):
        store.write(Deployment(number))
    generations = repository / "image_reward_network" / "configs" / "generations"
    assert sorted(int(entry.name) for entry in generations.iterdir()) == list(range(13, 21))
    assert _configs(repository) == ([20], 20, "KIND_CPU")


def test_what_cannot_be_written_is_said_in_one_line(repository: Path) -> None:
    """A full disk at any step is reported in one line.

    Nothing half-written is left, and what was served is still served.
    """
    DeploymentStore(repository).write(Deployment(1))

    def step(name: str) -> None:
        if name == "install the generation":
            raise OSError(28, "No space left on device", "network.pbtxt")

    with pytest.raises(CannotWrite, match=r"No space left on device; nothing has changed: make room"):
        DeploymentStore(repository, step=step).write(Deployment(2))
    assert deployment.read(repository) == Deployment(1)
    assert [entry.name for entry in (repository / "image_reward_network/configs/generations").iterdir()] == [
        "1"
    ]


def test_a_device_or_a_configuration_that_is_none(repository: Path) -> None:
    """An unknown device or a damaged configuration is refused in one line.

    Nothing is written before that.
    """
    with pytest.raises(RegistryError, match="no device 'tpu'; there is cpu, gpu"):
        DeploymentStore(repository).write(Deployment(1, device="tpu"))
    (repository / "image_reward" / "config.pbtxt").write_text("nonsense {")
    with pytest.raises(RegistryError, match=r"config\.pbtxt: not a model's configuration"):
        DeploymentStore(repository).write(Deployment(1))
    assert DeploymentStore(repository).read() is None
