"""A deployment -> Triton's configuration of the network and of the ensemble, `configs/served.pbtxt`.

Made of the tracked `config.pbtxt`, which never changes: of the network, which versions are loaded and where
they run; of the ensemble, which of them it scores with. All else stays as it is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from export.errors import RegistryError
from reward.contract import ENSEMBLE, NETWORK

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from reward.contract import ModelSpec
    from reward.deployment import Deployment

DEVICES: Final = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}


def network_config(repository: Path, deployment: Deployment, loaded: Iterable[int]) -> str:
    """Render the network's configuration that has Triton load these versions, and no others.

    Raises:
        RegistryError: the tracked configuration is missing or none, or there is no such device.
    """
    config = _network(repository, deployment)
    config.version_policy.Clear()
    config.version_policy.specific.versions.extend(sorted(set(loaded)))
    return text_format.MessageToString(config)


def network_settings(repository: Path, deployment: Deployment) -> dict[str, Any]:
    """Return the network's configuration as Triton hands it to a `model.py`.

    Raises:
        RegistryError: as above.
    """
    settings: dict[str, Any] = json_format.MessageToDict(
        _network(repository, deployment), preserving_proto_field_name=True
    )
    return settings


def ensemble_config(repository: Path, deployment: Deployment) -> str:
    """Render the ensemble's configuration that scores with the stable version.

    Raises:
        RegistryError: the tracked configuration is missing or none.
    """
    config = _tracked(repository, ENSEMBLE)
    for step in config.ensemble_scheduling.step:
        if step.model_name == NETWORK.name:
            step.model_version = deployment.stable
    return text_format.MessageToString(config)


def _network(repository: Path, deployment: Deployment) -> model_config_pb2.ModelConfig:
    if deployment.device not in DEVICES:
        raise RegistryError(f"no device {deployment.device!r}; there is {', '.join(DEVICES)}")
    config = _tracked(repository, NETWORK)
    for group in config.instance_group:
        group.kind = model_config_pb2.ModelInstanceGroup.Kind.Value(DEVICES[deployment.device])
    return config


def _tracked(repository: Path, model: ModelSpec) -> model_config_pb2.ModelConfig:
    path = repository / model.name / "config.pbtxt"
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except OSError as error:
        raise RegistryError(f"{path}: cannot be read: {error.strerror}") from error
    except text_format.ParseError as error:
        raise RegistryError(f"{path}: not a model's configuration: {error}") from error
