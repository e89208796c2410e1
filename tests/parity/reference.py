"""Ask the upstream package: a process for each job, which writes a file of answers, or waits."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

UPSTREAM: Final = Path(__file__).parents[2] / ".upstream"
_READY: Final = "ready"  # as in upstream.py


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
    waits: bool = False
    """Whether `ranks` are only made when they are asked for."""


def ask(job: Job, directory: Path) -> dict[str, NDArray[Any]]:
    """Run a job in `directory` and return upstream's arrays by name."""
    with _upstream(job, directory, stdout=subprocess.DEVNULL):
        pass
    with np.load(directory / "answers.npz") as answers:
        return dict(answers)


@contextmanager
def waiting(job: Job, directory: Path) -> Iterator[Callable[[int], None]]:
    """Run a job that `waits`; the function that is yielded makes one of its `ranks` each time."""
    with _upstream(job, directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def wait() -> None:
            while (line := stdout.readline().strip()) != _READY:  # upstream prints, too
                if not line and process.poll() is not None:
                    raise RuntimeError("the upstream process ended")

        def rank(index: int) -> None:
            stdin.write(f"{index}\n")
            stdin.flush()
            wait()

        wait()
        yield rank


@contextmanager
def _upstream(job: Job, directory: Path, **streams: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run the upstream process; it has ended well when the block is left."""
    if not (UPSTREAM / "ImageReward").is_dir():
        raise RuntimeError(
            "the upstream package is not installed: run 'make test', or 'make .upstream/.installed'"
        )
    (directory / "job.json").write_text(json.dumps(dataclasses.asdict(job)))
    script = Path(__file__).with_name("upstream.py")
    more = filter(None, [os.environ.get("PYTHONPATH")])  # where a torch outside of this Python is
    command = [sys.executable, str(script), str(directory)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(UPSTREAM), *more])}
    with subprocess.Popen(command, env=environment, **streams) as process:
        yield process
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
