"""On which device and by which backend versions run, where each was published for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.deploy import Deployer, Manner
from export.errors import Refused, RegistryError
from export.registry import Registry
from export.served_config import BACKENDS, network_config
from reward import deployment, manifest, preprocess
from reward.deployment import Deployment
from tests.repository import copy_repository

if TYPE_CHECKING:
    from pathlib import Path

    from export.running_triton import RunningTriton

GRAPH = {"network.onnx": ""}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Version 1 is for the CPU, 2 for the GPU in fp16 with its graph, 3 for the GPU in bf16."""
    registry = Registry(copy_repository(tmp_path / "model_repository"))
    for precision, runtime, files in (
        ("fp32", "onnxruntime", GRAPH),
        ("fp16", "torch_cuda", GRAPH),
        ("bf16", "torch_cuda", {}),
    ):
        with registry.publishing() as draft:
            content = manifest.Manifest(
                "name", "0" * 64, precision, runtime, 0, preprocess.digest(), {}, files, {}, "now"
            )
            manifest.write(content, draft.directory)
    return registry


def _promote(registry: Registry, number: int, **options: Any) -> tuple[str, str]:
    # The files that the manifests name are not there, and nobody looks for them.
    deployer = Deployer(registry, None, Manner(who="test"))
    deployer.promote(number, is_tried=True, **options)
    content = deployment.read(registry.repository)
    return content.device, content.backend


@pytest.fixture(autouse=True)
def _no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.deploy.check", lambda *_, **__: None)


def test_a_version_takes_its_device_along(registry: Registry) -> None:
    """A promotion goes over to the device of its version, and a rollback back to the former one."""
    assert _promote(registry, 1) == ("cpu", "python")
    assert _promote(registry, 2) == ("gpu", "python")
    assert _promote(registry, 2, backend="tensorrt") == ("gpu", "tensorrt")
    assert _promote(registry, 3) == ("gpu", "python")  # bf16 has no graph for native backends
    Deployer(registry, None, Manner(who="test")).rollback()
    assert deployment.read(registry.repository).device == "gpu"
    Deployer(registry, None, Manner(who="test")).rollback()
    content = deployment.read(registry.repository)
    assert (content.stable, content.device, content.backend) == (1, "cpu", "python")


def test_versions_of_two_devices_do_not_stand_beside_each_other(registry: Registry) -> None:
    """A canary for another device than the stable version's is refused, and nothing has changed."""
    _promote(registry, 2)
    with pytest.raises(Refused, match="version 1 was published for the cpu, and would run on the gpu"):
        _promote(registry, 1, canary=0.1)
    assert _promote(registry, 3, canary=0.1) == ("gpu", "python")


def test_a_version_for_a_gpu_runs_on_a_cpu_only_by_force(registry: Registry) -> None:
    """It would be far slower there than one for the CPU, and nobody would be told."""
    with pytest.raises(Refused, match="version 2 was published for the gpu, and would run on the cpu"):
        _promote(registry, 2, device="cpu")
    assert _promote(registry, 2, device="cpu", force=True) == ("cpu", "python")


class Running:
    """A Triton that has version 1 loaded."""

    url = "127.0.0.1:8000"

    def is_up(self) -> bool:
        """It answers."""
        return True

    def loaded(self) -> set[int]:
        """Name what is loaded."""
        return {1}


def test_a_running_triton_goes_over_to_another_device_by_replacing_alone(registry: Registry) -> None:
    """Triton cannot have both loaded, for they share a configuration; nothing has changed."""
    _promote(registry, 1)
    deployer = Deployer(registry, cast("RunningTriton", Running()), Manner(who="test"))
    with pytest.raises(
        Refused,
        match=r"version 1 \(python on the cpu\) beside 2 \(python on the gpu\): --replace unloads",
    ):
        deployer.promote(2, is_tried=True)
    assert deployment.read(registry.repository).stable == 1


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_a_native_backend_needs_a_version_with_its_graph(registry: Registry, backend: str) -> None:
    """Neither a version for the CPU nor one of bf16 can be run by a native backend."""
    for number in (1, 3):
        with pytest.raises(Refused, match=f"cannot be run by {backend}, which takes versions of fp16"):
            _promote(registry, number, backend=backend)
    assert _promote(registry, 2, backend=backend) == ("gpu", backend)


def _config(registry: Registry, device: str, backend: str) -> Any:
    text = network_config(registry.repository, Deployment(2, device=device, backend=backend), [2])
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_all_backends_have_one_interface(registry: Registry) -> None:
    """Tensors, batching, queue and versions are the same whatever executes the network.

    NVIDIA's own protobuf classes read each rendered configuration.
    """
    python = _config(registry, "cpu", "python")
    for backend in BACKENDS:
        config = _config(registry, "gpu", backend)
        assert (config.backend, config.instance_group[0].count) == (backend, 1)
        assert model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == "KIND_GPU"
        for field in ("input", "output", "dynamic_batching", "version_policy", "name"):
            assert getattr(config, field) == getattr(python, field)


def test_native_backends_name_the_file_that_they_load(registry: Registry) -> None:
    """Only TensorRT has CUDA graphs, one for each batch size from a lower bound on."""
    onnx, tensorrt = (_config(registry, "gpu", backend) for backend in ("onnxruntime", "tensorrt"))
    assert onnx.default_model_filename == "network.onnx"
    assert tensorrt.default_model_filename == "network.plan"
    assert not onnx.parameters
    assert not onnx.optimization.cuda.graphs
    assert tensorrt.optimization.cuda.graphs
    graphs = tensorrt.optimization.cuda.graph_spec
    bounds = {graph.graph_lower_bound.batch_size: graph.batch_size for graph in graphs}
    assert bounds == {1: 1, 2: 8, 9: 16, 17: 32, 33: 64}
    for graph in graphs:
        for inputs in (graph.input, graph.graph_lower_bound.input):
            shapes = {name: list(shape.dim) for name, shape in inputs.items()}
            assert shapes == {"PIXELS": [3, 224, 224], "INPUT_IDS": [35], "ATTENTION_MASK": [35]}


def test_a_backend_that_is_none(registry: Registry) -> None:
    """An unknown backend in the deployment is refused in one line."""
    with pytest.raises(RegistryError, match="no backend 'pytorch'; there is python, onnxruntime, tensorrt"):
        _config(registry, "gpu", "pytorch")
