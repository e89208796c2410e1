"""Builds the TensorRT plans of what is served, before Triton starts, in Triton's own image.

    python3 -m export.tensorrt_plan model_repository && tritonserver …

A plan fits one GPU model and one TensorRT. So it is made on the machine that serves, from a
version's fp16 graph, and kept beside it with a note of what it was made of and for. It is not put
in place until it has scored the version's pairs as they should be scored. `trtexec` does the work,
which NVIDIA's image brings; NumPy is all else that is needed.

Not run here, for want of a GPU: the tests run it with a stand-in for `trtexec`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.errors import ExportError, GateError
from export.native_config import MAX_DIFFERENCE, PAIRS_FILE_NAME, PLAN_FILE_NAME
from reward import deployment, manifest
from reward.contract import MAX_BATCH, NETWORK, REWARD
from reward.errors import RewardError
from reward.runtimes import GRAPH_FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_OPTIMAL_BATCH: Final = 32


def main(repository: Path, numbers: Iterable[int] = ()) -> None:
    """Make sure of the plans of these versions, by default of all that are served.

    Raises:
        ExportError: TensorRT or a GPU is missing, or cannot build a plan.
        GateError: a plan scores otherwise than it should.
        VersionError: nothing is published.
    """
    for number in numbers or deployment.read(repository).versions:
        directory = repository / NETWORK.name / str(number)
        print(f"version {number}: {ensure_plan(directory)}", flush=True)  # noqa: T201 - a command


def ensure_plan(directory: Path, trtexec: str = "") -> str:
    """Build a version's plan unless it is there for this GPU and TensorRT; say which it was.

    Raises:
        ExportError, GateError, VersionError: as in `main`.
    """
    trtexec = trtexec or shutil.which("trtexec") or "/usr/src/tensorrt/bin/trtexec"
    content = manifest.read(directory)
    if GRAPH_FILE_NAME not in content.files or PAIRS_FILE_NAME not in content.files:
        raise ExportError(
            f"{directory}: has no graph for TensorRT: publish its checkpoint with --precision fp16"
        )
    made_for = {
        # The graph's sha256 does not see its weights, which are in another file.
        "files": {name: digest for name, digest in content.files.items() if name.startswith(GRAPH_FILE_NAME)},
        "tensorrt": _find(r"TensorRT v(\d+)|TensorRT[ -](\d+\.\d+\S*)", _run(trtexec, "--help")),
        "sm": _run("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").split("\n")[0],
    }
    plan, note = directory / PLAN_FILE_NAME, directory / f"{PLAN_FILE_NAME}.json"
    if plan.exists() and note.exists() and json.loads(note.read_text())["made_for"] == made_for:
        return f"{PLAN_FILE_NAME} is there"
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=directory.parent / "configs") as temporary:
        draft = Path(temporary) / PLAN_FILE_NAME
        _build(trtexec, directory / GRAPH_FILE_NAME, draft)
        difference = _compare(trtexec, draft, directory / PAIRS_FILE_NAME)
        note.unlink(missing_ok=True)
        draft.replace(plan)
        note.write_text(json.dumps({"made_for": made_for, "max_difference": difference}) + "\n")
    return f"{PLAN_FILE_NAME} built; it differs from fp32 by {difference:.2g} at most"


def _build(trtexec: str, graph: Path, plan: Path) -> None:
    def shapes(batch: int) -> str:
        return ",".join(f"{spec.name}:{'x'.join(map(str, (batch, *spec.shape)))}" for spec in NETWORK.inputs)

    bounds = {"minShapes": 1, "optShapes": _OPTIMAL_BATCH, "maxShapes": MAX_BATCH}
    options = [f"--{name}={shapes(batch)}" for name, batch in bounds.items()]
    _run(trtexec, f"--onnx={graph}", f"--saveEngine={plan}", "--stronglyTyped", "--skipInference", *options)


def _compare(trtexec: str, plan: Path, pairs: Path) -> float:
    """Score the pairs with a plan; return the largest difference.

    Raises:
        GateError: it is larger than allowed.
    """
    with np.load(pairs) as arrays:
        expected = arrays[REWARD.name]
        inputs = {spec.name: np.ascontiguousarray(arrays[spec.name]) for spec in NETWORK.inputs}
    for name, array in inputs.items():
        array.tofile(plan.with_name(name))
    shapes = ",".join(f"{name}:{'x'.join(map(str, array.shape))}" for name, array in inputs.items())
    files = ",".join(f"{name}:{plan.with_name(name)}" for name in inputs)
    answers = plan.with_name("answers.json")
    once = ("--iterations=1", "--warmUp=0", "--duration=0")
    _run(
        trtexec,
        f"--loadEngine={plan}",
        f"--shapes={shapes}",
        f"--loadInputs={files}",
        f"--exportOutput={answers}",
        *once,
    )
    outputs: list[dict[str, Any]] = json.loads(answers.read_text())
    rewards: NDArray[Any] = np.array(
        next(one["values"] for one in outputs if one["name"] == REWARD.name), float
    )
    difference = float(np.abs(rewards.reshape(expected.shape) - expected).max())
    if not difference <= MAX_DIFFERENCE:
        raise GateError(
            f"TensorRT's plan differs from fp32 by {difference:.2g}, at most {MAX_DIFFERENCE:g} is allowed"
        )
    return difference


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    except OSError as error:
        raise ExportError(
            f"{command[0]} cannot be run: {error.strerror}; NVIDIA's image of Triton has it"
        ) from error
    if done.returncode:
        lines = [
            line
            for line in (done.stdout + done.stderr).splitlines()
            if "[E]" in line or "error" in line.lower()
        ]
        raise ExportError(
            f"{command[0]} failed with status {done.returncode}: {(lines or ['it said nothing'])[0]}"
        )
    return done.stdout.strip()


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise ExportError("trtexec does not say of which TensorRT it is")
    return next(group for group in found.groups() if group)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), map(int, sys.argv[2:]))
    except (ExportError, RewardError) as error:
        sys.exit(f"error: {error}")
