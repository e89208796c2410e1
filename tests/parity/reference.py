"""Ask the upstream package: one process, one job, one file of answers."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

UPSTREAM: Final = Path(__file__).parents[2] / ".upstream"


@dataclass(frozen=True)
class Job:
    """What upstream is asked to do; see tests/parity/upstream.py."""

    prompts: list[str]
    images: list[str] = field(default_factory=list)
    """Paths of image files."""
    checkpoint: str | None = None
    """Path of a checkpoint; None asks only for tokens and pixels."""
    seed: int | None = None
    """If set, a checkpoint is made from this seed first."""
    layers: int | None = None
    """How many layers each of the two encoders has; None: as many as upstream's."""
    pairs: list[tuple[int, int]] = field(default_factory=list)
    """(prompt index, image index), scored one by one as `ImageReward.score` does."""
    ranks: list[tuple[int, list[int]]] = field(default_factory=list)
    """(prompt index, image indices), through `ImageReward.inference_rank`."""
    remembers_images: bool = False
    """Whether an image is encoded only once, however often it is scored."""
    device: str = "cpu"
    """As torch names it."""


def ask(job: Job, directory: Path) -> dict[str, NDArray[Any]]:
    """Run a job in `directory` and return upstream's arrays by name."""
    if not (UPSTREAM / "ImageReward").is_dir():
        raise RuntimeError(
            "the upstream package is not installed: run 'make test', or 'make .upstream/.installed'"
        )
    (directory / "job.json").write_text(json.dumps(dataclasses.asdict(job)))
    script = Path(__file__).with_name("upstream.py")
    more = filter(None, [os.environ.get("PYTHONPATH")])  # where a torch outside of this Python is
    subprocess.run(
        [sys.executable, str(script), str(directory)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(UPSTREAM), *more])},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with np.load(directory / "answers.npz") as answers:
        return dict(answers)
