"""The configurations, the graph and `reward/contract.py` agree with each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from reward.contract import (
    ENSEMBLE,
    MAX_BATCH,
    MAX_TOKENS,
    MODELS,
    NETWORK,
    PREPROCESS,
    ModelSpec,
    TensorSpec,
)
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

REPOSITORY = CHECKOUT / "model_repository"
TRITON_TYPES = {"BYTES": "TYPE_STRING"}  # every other type has its own name in the configuration


def _config(model: ModelSpec) -> Any:
    text = (REPOSITORY / model.name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _tensors(entries: Any) -> list[tuple[str, str, tuple[int, ...]]]:
    names = model_config_pb2.DataType
    return [(entry.name, names.Name(entry.data_type), tuple(entry.dims)) for entry in entries]


def _expected(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(spec.name, TRITON_TYPES.get(spec.dtype, f"TYPE_{spec.dtype}"), spec.shape) for spec in specs]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_configuration_keeps_the_contract(model: ModelSpec) -> None:
    """Name, tensors and largest batch are those of the contract."""
    config = _config(model)
    assert config.name == model.name
    assert config.max_batch_size == MAX_BATCH
    assert _tensors(config.input) == _expected(model.inputs)
    assert _tensors(config.output) == _expected(model.outputs)


def test_there_are_no_other_models() -> None:
    """Triton takes every directory for a model, so there are only the ones that are meant."""
    assert {entry.name for entry in REPOSITORY.iterdir() if entry.is_dir()} == {
        model.name for model in MODELS
    }


def test_the_ensemble_connects_every_tensor() -> None:
    """Each step maps each tensor of its model to the tensor of the same name.

    So what preprocessing says of a row in ERROR reaches the caller.
    """
    steps = _config(ENSEMBLE).ensemble_scheduling.step
    assert [step.model_name for step in steps] == [PREPROCESS.name, NETWORK.name]
    for step, model in zip(steps, (PREPROCESS, NETWORK), strict=True):
        assert dict(step.input_map) == {spec.name: spec.name for spec in model.inputs}
        assert dict(step.output_map) == {spec.name: spec.name for spec in model.outputs}


def test_without_a_deployment_the_newest_version_is_served() -> None:
    """By the tracked configurations the newest version is loaded, and the ensemble scores with it.

    No command changes these configurations.
    """
    policy = _config(NETWORK).version_policy
    assert policy.latest.num_versions == 1
    assert [step.model_version for step in _config(ENSEMBLE).ensemble_scheduling.step] == [1, -1]


def test_the_network_batches_with_priorities_and_timeouts() -> None:
    """The queue is bounded, and its default timeout is above 0.

    Triton heeds a request's own timeout only if the default is above 0.
    """
    batching = _config(NETWORK).dynamic_batching
    assert batching.max_queue_delay_microseconds == 0  # batches form while the CPU works
    assert batching.priority_levels == 2
    policy = batching.default_queue_policy
    assert policy.default_timeout_microseconds > 0
    assert policy.allow_timeout_override
    assert policy.max_queue_size > 0


def test_the_graph_keeps_the_contract(published_repository: Path) -> None:
    """Inputs, output and types are the contract's; batch size and prompt length are left open."""
    graph = onnx.load(
        published_repository / NETWORK.name / "1" / "network.onnx", load_external_data=False
    ).graph
    types = {"UINT8": onnx.TensorProto.UINT8, "INT64": onnx.TensorProto.INT64, "FP32": onnx.TensorProto.FLOAT}
    for values, specs in ((graph.input, NETWORK.inputs), (graph.output, NETWORK.outputs)):
        assert [value.name for value in values] == [spec.name for spec in specs]
        for value, spec in zip(values, specs, strict=True):
            tensor = value.type.tensor_type
            batch, *shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
            assert tensor.elem_type == types[spec.dtype]
            assert isinstance(batch, str)
            open_shape = tuple("tokens" if size == MAX_TOKENS else size for size in spec.shape)
            assert tuple(shape) == open_shape


def test_model_files_are_imports_alone() -> None:
    """Each `model.py` is under 20 lines and imports only numpy and reward.

    This holds for the `model.py` of a published version, too.
    """
    files = [*REPOSITORY.glob("*/*/model.py"), CHECKOUT / "export" / "published_model.py"]
    assert len(files) >= 2
    for file in files:
        text = file.read_text()
        assert len(text.splitlines()) < 20
        imported = re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE)
        assert set(imported) <= {"numpy", "reward"}
