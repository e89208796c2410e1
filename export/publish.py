"""Checkpoint -> exported, compared, published version."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from tqdm import tqdm

from export import gates, questions
from export.errors import ExportError
from export.native_graph import check_native_graph, write_native_graph, write_pairs
from export.placement import PRECISIONS
from export.quantize import quantize
from export.to_onnx import OPSET, to_onnx
from reward import checkpoint, manifest, preprocess, runtimes
from reward.files import sha256
from reward.runtimes import ONNXRUNTIME, TORCH_CUDA
from reward.runtimes.onnxruntime import OnnxRuntime
from reward.runtimes.torch_cuda import DTYPES, WEIGHTS_FILE_NAME

if TYPE_CHECKING:
    from export.questions import Questions
    from export.registry import Registry
    from reward.manifest import Manifest
    from reward.network import Dimensions, RewardNetwork
    from reward.runtimes import Runtime

_TOOLS: Final = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Recipe:
    """What is published, and how."""

    checkpoint: Path
    name: str
    """The name of the weights, which every response shows."""
    dimensions: Dimensions | None = None
    """The dimensions of a checkpoint that does not have them and is not of ImageReward-v1.0's size.
    """
    precision: str = "fp32"
    device: str = "cpu"
    """`cpu` or `gpu`; `export.placement.PRECISIONS` has what is published for each."""
    gate_set: Path | None = None
    """A directory of questions to measure the version with, instead of the built-in ones."""
    calibration: Path | None = None
    """A directory of questions by which int8 sets its scales, instead of drawn pictures."""
    force: bool = False
    """Publish even a version that is farther from fp32 than its precision allows."""


def publish(registry: Registry, recipe: Recipe, *, show_progress: bool = True) -> int:
    """Publish a checkpoint and return its version number; only a promotion makes it served.

    Raises:
        CheckpointError: the file is no checkpoint of this network.
        ExportError: there is no such precision on that device.
        GateError: what was exported is too far from the fp32 network.
        QuestionsError: a directory of questions cannot be read.
    """
    with registry.publishing() as draft:
        write_version(draft.directory, recipe, show_progress=show_progress)
    return draft.number


def write_version(directory: Path, recipe: Recipe, *, show_progress: bool = True) -> None:
    """Do what `publish` does, into an empty directory anywhere."""
    if recipe.device not in PRECISIONS[recipe.precision]:
        raise ExportError(f"{recipe.precision} is not published for the {recipe.device}")
    asked = questions.read(recipe.gate_set) if recipe.gate_set else questions.drawn()
    with tqdm(total=5 + gates.steps(asked), disable=not show_progress, bar_format=_BAR) as bar:

        def step(doing: str) -> None:
            bar.set_description_str(doing)
            bar.update()

        bar.set_description_str("checkpoint: sha256")
        digest = sha256(recipe.checkpoint)
        step("checkpoint: tensors")
        network = checkpoint.load(recipe.checkpoint, recipe.dimensions)
        step("graph: export")
        if recipe.device == "gpu":
            _write_for_gpu(network, asked, recipe, directory)
        else:
            to_onnx(network, directory)
        if recipe.precision == "int8":
            bar.set_description_str("graph: quantise")
            quantize(directory, _calibration(recipe))
        step("graph: load")
        shutil.copy(Path(__file__).with_name("published_model.py"), directory / "model.py")
        written = manifest.Manifest(
            name=recipe.name,
            checkpoint_sha256=digest,
            precision=recipe.precision,
            runtime=TORCH_CUDA if recipe.device == "gpu" else ONNXRUNTIME,
            opset=OPSET,
            preprocessing=preprocess.digest(),
            dimensions=dataclasses.asdict(network.dimensions),
            files={file.name: sha256(file) for file in sorted(directory.iterdir())},
            tools={tool: version(tool) for tool in _TOOLS},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        manifest.write(written, directory)
        gpu = "cuda:0" if recipe.device == "gpu" and torch.cuda.is_available() else None
        before_mb = _used_mb() if gpu else 0
        loaded = runtimes.load(directory, device=gpu or "cpu")
        step("graph: compare with torch")
        report = gates.check(network, loaded, asked, force=recipe.force, progress=bar.update)
        pace_s = report.pop("seconds_per_image")
        if recipe.device == "gpu":
            report |= _gpu_report(report, loaded, directory, written)
            pace_s = None  # it is of no CPU that serves
        vram_mb = _used_mb() - before_mb if gpu else None
        written = dataclasses.replace(written, gates=report, seconds_per_image=pace_s, vram_mb=vram_mb)
        manifest.write(written, directory)
        step("published")


def _write_for_gpu(network: RewardNetwork, asked: Questions, recipe: Recipe, directory: Path) -> None:
    """Write the weights in their precision; for fp16, the graph for native backends as well."""
    rounded = copy.deepcopy(network).to_precision(DTYPES[recipe.precision])
    checkpoint.save(rounded, directory / WEIGHTS_FILE_NAME)
    if recipe.precision == "fp16":
        write_native_graph(rounded, directory)
        write_pairs(network, asked, directory)


def _gpu_report(
    report: dict[str, Any], loaded: Runtime, directory: Path, written: Manifest
) -> dict[str, Any]:
    """Say what was compared, and on what: where there is no GPU, its rounding is only emulated."""
    where = loaded.ran_on if loaded.ran_on != "CPU" else "the CPU, emulated: no GPU was there"
    summary = f"{report['summary']}; measured on {where}"
    found: dict[str, Any] = {"ran_on": loaded.ran_on, "summary": summary}
    if written.precision == "fp16":
        graph = OnnxRuntime(directory, written, 0)
        limit = gates.LIMITS["fp16"].max_difference
        found["native_graph_difference"] = check_native_graph(graph, directory, max_difference=limit)
    return found


def _used_mb() -> int:
    """Return how much of the first GPU's memory is in use, by whomever, in MiB."""
    return int(torch.cuda.device_memory_used(0)) // 2**20


def _calibration(recipe: Recipe) -> Questions:
    # These are other pictures than the gate's: those that set the scales must not judge them as
    # well.
    return questions.read(recipe.calibration) if recipe.calibration else questions.drawn(seed=1)


_BAR: Final = "{desc:<26} {bar} {n_fmt}/{total_fmt} [{elapsed}]"
