"""Checkpoint -> exported, compared, published version."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from tqdm import tqdm

from export import gates, questions
from export.quantize import quantize
from export.to_onnx import OPSET, to_onnx
from reward import checkpoint, manifest, preprocess, runtimes
from reward.files import sha256

if TYPE_CHECKING:
    from export.questions import Questions
    from export.registry import Registry
    from reward.network import Dimensions

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
    precision: Literal["fp32", "int8"] = "fp32"
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
        GateError: what was exported is too far from the fp32 network.
        QuestionsError: a directory of questions cannot be read.
    """
    with registry.publishing() as draft:
        write_version(draft.directory, recipe, show_progress=show_progress)
    return draft.number


def write_version(directory: Path, recipe: Recipe, *, show_progress: bool = True) -> None:
    """Do what `publish` does, into an empty directory anywhere."""
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
            runtime="onnxruntime",
            opset=OPSET,
            preprocessing=preprocess.digest(),
            dimensions=dataclasses.asdict(network.dimensions),
            files={file.name: sha256(file) for file in sorted(directory.iterdir())},
            tools={tool: version(tool) for tool in _TOOLS},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        manifest.write(written, directory)
        loaded = runtimes.load(directory)
        step("graph: compare with torch")
        report = gates.check(network, loaded, asked, force=recipe.force, progress=bar.update)
        pace_s = report.pop("seconds_per_image")
        manifest.write(dataclasses.replace(written, gates=report, seconds_per_image=pace_s), directory)
        step("published")


def _calibration(recipe: Recipe) -> Questions:
    # These are other pictures than the gate's: those that set the scales must not judge them as
    # well.
    return questions.read(recipe.calibration) if recipe.calibration else questions.drawn(seed=1)


_BAR: Final = "{desc:<26} {bar} {n_fmt}/{total_fmt} [{elapsed}]"
