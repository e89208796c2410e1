"""A deployment -> Triton's configurations of network and ensemble, `configs/served.pbtxt`.

They are made from the tracked `config.pbtxt`, which never changes. In the network's, the versions
to load and the device are set. In the ensemble's, the version that it scores with is set. In both,
the largest batch is what a CPU does in a few seconds, if it is a CPU. Everything else stays as it
is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from export.errors import RegistryError
from export.native_config import NATIVE_BACKENDS, make_native
from reward import manifest
from reward.contract import ENSEMBLE, MAX_BATCH, NETWORK
from reward.deployment import PYTHON
from reward.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from reward.contract import ModelSpec
    from reward.deployment import Deployment

DEVICES: Final = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
BACKENDS: Final = (PYTHON, *NATIVE_BACKENDS)


def network_config(repository: Path, deployment: Deployment, loaded: Iterable[int]) -> str:
    """Render the network's configuration with which Triton loads these versions and no others.

    Raises:
        RegistryError: the tracked configuration is missing or damaged, or there is no such device.
    """
    loaded = set(loaded)
    config = _network(repository, deployment, loaded)
    config.version_policy.Clear()
    config.version_policy.specific.versions.extend(sorted(loaded))
    return text_format.MessageToString(config)


def network_settings(repository: Path, deployment: Deployment) -> dict[str, Any]:
    """Return the network's configuration as Triton hands it to a `model.py`.

    Raises:
        RegistryError: as in `network_config`.
    """
    settings: dict[str, Any] = json_format.MessageToDict(
        _network(repository, deployment, deployment.versions), preserving_proto_field_name=True
    )
    return settings


def ensemble_config(repository: Path, deployment: Deployment, loaded: Iterable[int]) -> str:
    """Render the ensemble's configuration, which scores with the stable one of these versions.

    Raises:
        RegistryError: the tracked configuration is missing or damaged.
    """
    config = _tracked(repository, ENSEMBLE)
    config.max_batch_size = _max_rows(repository, deployment, loaded)
    for step in config.ensemble_scheduling.step:
        if step.model_name == NETWORK.name:
            step.model_version = deployment.stable
    return text_format.MessageToString(config)


def _network(repository: Path, deployment: Deployment, loaded: Iterable[int]) -> model_config_pb2.ModelConfig:
    if deployment.device not in DEVICES:
        raise RegistryError(f"no device {deployment.device!r}; there is {', '.join(DEVICES)}")
    if deployment.backend not in BACKENDS:
        raise RegistryError(f"no backend {deployment.backend!r}; there is {', '.join(BACKENDS)}")
    config = _tracked(repository, NETWORK)
    config.max_batch_size = _max_rows(repository, deployment, loaded)
    for group in config.instance_group:
        group.kind = model_config_pb2.ModelInstanceGroup.Kind.Value(DEVICES[deployment.device])
    if deployment.backend != PYTHON:
        make_native(config, deployment.backend)
    return config


def _max_rows(repository: Path, deployment: Deployment, loaded: Iterable[int]) -> int:
    """Return the largest batch that the device does in a short time, whichever version is asked."""
    if deployment.device != "cpu":
        return MAX_BATCH
    return min(
        (_max_cpu_rows(repository / NETWORK.name / str(number)) for number in loaded), default=MAX_BATCH
    )


def _max_cpu_rows(directory: Path) -> int:
    try:
        return manifest.read(directory).max_cpu_rows
    except VersionError:  # it is not there, or cannot be served
        return MAX_BATCH


def _tracked(repository: Path, model: ModelSpec) -> model_config_pb2.ModelConfig:
    path = repository / model.name / "config.pbtxt"
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except OSError as error:
        raise RegistryError(f"{path}: cannot be read: {error.strerror}") from error
    except text_format.ParseError as error:
        raise RegistryError(f"{path}: not a model's configuration: {error}") from error
