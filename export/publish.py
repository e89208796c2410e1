"""Checkpoint -> exported, compared, published version."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tqdm import tqdm

from export import parity
from export.to_onnx import OPSET, to_onnx
from reward import checkpoint, manifest, preprocess, runtimes
from reward.files import sha256

if TYPE_CHECKING:
    from export.registry import Registry
    from reward.network import Dimensions

_TOOLS: Final = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Recipe:
    """What is published, and how."""

    checkpoint: Path
    name: str
    """Of the weights, shown in every response."""
    dimensions: Dimensions | None = None
    """For a checkpoint that does not carry its own and is not of ImageReward-v1.0's size."""
    tolerance: float = parity.TOLERANCE


def publish(registry: Registry, recipe: Recipe, *, show_progress: bool = True) -> int:
    """Publish a checkpoint and return its version number; it is served when it is promoted.

    Raises:
        CheckpointError: the file is no checkpoint of this network.
        ParityError: the graph differs from torch by more than the tolerance.
    """
    with registry.publishing() as draft:
        write_version(draft.directory, recipe, show_progress=show_progress)
    return draft.number


def write_version(directory: Path, recipe: Recipe, *, show_progress: bool = True) -> None:
    """Do what `publish` does, into an empty directory anywhere."""
    steps = 5 + len(parity.BATCHES)
    with tqdm(total=steps, disable=not show_progress, bar_format=_BAR) as bar:

        def step(doing: str) -> None:
            bar.set_description_str(doing)
            bar.update()

        bar.set_description_str("checkpoint: sha256")
        digest = sha256(recipe.checkpoint)
        step("checkpoint: tensors")
        network = checkpoint.load(recipe.checkpoint, recipe.dimensions)
        step("graph: export")
        to_onnx(network, directory)
        step("graph: load")
        shutil.copy(Path(__file__).with_name("published_model.py"), directory / "model.py")
        written = manifest.Manifest(
            name=recipe.name,
            checkpoint_sha256=digest,
            precision="fp32",
            runtime="onnxruntime",
            opset=OPSET,
            preprocessing=preprocess.digest(),
            dimensions=dataclasses.asdict(network.dimensions),
            files={file.name: sha256(file) for file in sorted(directory.iterdir())},
            tools={tool: version(tool) for tool in _TOOLS},
            parity={},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        manifest.write(written, directory)
        loaded = runtimes.load(directory)
        step("graph: compare with torch")
        report = parity.compare(network, loaded, tolerance=recipe.tolerance, progress=bar.update)
        manifest.write(dataclasses.replace(written, parity=dataclasses.asdict(report)), directory)
        step("published")


_BAR: Final = "{desc:<26} {bar} {n_fmt}/{total_fmt} [{elapsed}]"
