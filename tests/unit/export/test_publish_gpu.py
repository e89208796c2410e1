"""Versions for GPUs: what is published, what was compared, and what `make up` makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from export.choose import Chooser
from export.deploy import Deployer, Manner
from export.errors import ChoiceError, ExportError
from export.publish import Recipe, publish
from export.registry import Registry
from export.trial import questions, trial
from reward import deployment, manifest, runtimes
from tests.gpu_version import write_gpu_version
from tests.repository import copy_published

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def registry(published_fp16: Path, tmp_path: Path) -> Registry:
    """A copy for one test."""
    return Registry(copy_published(published_fp16, tmp_path / "model_repository"))


def test_fp16_is_published_with_weights_graph_and_pairs(registry: Registry) -> None:
    """The weights are there once for torch, and as a graph with pairs for native backends.

    The report says that its rounding was emulated, for there is no GPU here.
    """
    content = registry.version(1).manifest
    assert set(content.files) == {
        "model.py",
        "network.onnx",
        "network.onnx.data",
        "pairs.npz",
        "weights.safetensors",
    }
    assert (content.precision, content.runtime, content.vram_mb) == ("fp16", "torch_cuda", None)
    report = content.gates or {}
    assert report["failures"] == []
    assert 1e-4 < report["max_difference"] < 1e-2
    assert 1e-5 < report["native_graph_difference"] < 1e-2
    assert report["ran_on"] == "CPU"
    assert report["summary"].endswith("; measured on the CPU, emulated: no GPU was there")
    assert runtimes.load(registry.directory(1)).manifest == content


def test_what_is_not_for_a_device_is_refused(registry: Registry, published_fp16: Path) -> None:
    """There is no int8 for GPUs and no half precision for CPUs."""
    for precision, device in (("int8", "gpu"), ("fp16", "cpu"), ("bf16", "cpu")):
        recipe = Recipe(
            published_fp16.parent / "small.safetensors", "small", precision=precision, device=device
        )
        with pytest.raises(ExportError, match=f"{precision} is not published for the {device}"):
            publish(registry, recipe, show_progress=False)


def test_a_trial_needs_no_gpu(registry: Registry) -> None:
    """A version is tried on the CPU, by its own `model.py` or, for a native backend, by its graph.

    The served version has the GPU's memory, and nobody has asked for a second share yet.
    """
    directory = registry.directory(1)
    expected = runtimes.load(directory).score(*questions())[:, 0]
    for backend in ("python", "tensorrt"):
        config = {"backend": backend, "instance_group": [{"kind": "KIND_GPU"}]}
        scores = trial(directory, config, timeout_s=240)
        assert scores == pytest.approx(list(expected), abs=1e-6 if backend == "python" else 1e-2)


def test_a_precision_that_is_wished_for_is_served_on_its_device(
    registry: Registry, published_fp16: Path
) -> None:
    """`make up PRECISION=fp16` serves what is published in fp16, on the GPU; without it, all stays.

    A precision that is not published needs the checkpoint.
    """
    write_gpu_version(registry.directory(2), "bf16")
    content = manifest.read(registry.directory(2))
    assert content.name == "random weights"
    deployer = Deployer(registry, None, Manner(who="test"))
    deployer.promote(2, is_tried=True)
    chooser = Chooser(registry, deployer, lambda _: None)
    chooser.ensure(checkpoint=published_fp16.parent / "small.safetensors", precision="fp16")
    served = deployment.read(registry.repository)
    assert (served.stable, served.device) == (1, "gpu")
    chooser.ensure()
    assert deployment.read(registry.repository).stable == 1
    with pytest.raises(ChoiceError, match=r"'small' was published for another preprocessing or precision"):
        chooser.ensure(precision="bf16")
    with pytest.raises(ChoiceError, match="is there in fp32 alone"):
        chooser.ensure(model="demo", precision="fp16")
