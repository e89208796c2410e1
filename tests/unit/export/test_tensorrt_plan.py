"""TensorRT's plans: built once for a GPU and a TensorRT, and only kept if they score right.

There is no TensorRT here. A script stands in for `trtexec`: it keeps the graph's path in the place
of a plan, and runs the graph with onnxruntime. Options, files and answers have trtexec's form.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from export.errors import ExportError, GateError
from export.tensorrt_plan import ensure_plan
from reward.contract import NETWORK
from tests.gpu_version import write_gpu_version

if TYPE_CHECKING:
    from pathlib import Path

_TRTEXEC = """#!{python}
import json, os, sys
import numpy as np
print("&&&& RUNNING TensorRT.trtexec [TensorRT v" + os.environ["TENSORRT"] + "] [b1]")
options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
if "onnx" in options:
    assert "--stronglyTyped" in sys.argv
    assert options["maxShapes"] == "PIXELS:64x3x224x224,INPUT_IDS:64x35,ATTENTION_MASK:64x35"
    open(options["saveEngine"], "w").write(options["onnx"])
    print("built", file=open(os.environ["LOG"], "a"))
if "loadEngine" in options:
    import onnxruntime
    session = onnxruntime.InferenceSession(open(options["loadEngine"]).read())
    files = dict(part.split(":") for part in options["loadInputs"].split(","))
    shapes = dict(part.split(":") for part in options["shapes"].split(","))
    inputs = {{
        name: np.fromfile(path, np.uint8 if name == "PIXELS" else np.int64).reshape(
            [int(size) for size in shapes[name].split("x")]
        )
        for name, path in files.items()
    }}
    rewards = session.run(["REWARD"], inputs)[0] + float(os.environ["SHIFT"])
    answer = [{{"name": "REWARD", "dimensions": "16x1", "values": rewards.ravel().tolist()}}]
    json.dump(answer, open(options["exportOutput"], "w"))
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with the stand-ins; returns the log of what was built."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (
        ("trtexec", _TRTEXEC.format(python=sys.executable)),
        ("nvidia-smi", "#!/bin/sh\necho $SM\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    log = tmp_path / "log"
    for name, value in {"LOG": str(log), "TENSORRT": "101300", "SM": "9.0", "SHIFT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return log


@pytest.fixture
def version(native_version: Path, tmp_path: Path) -> Path:
    """A copy of the small network's version in fp16, with its graph and its pairs."""
    (tmp_path / "configs").mkdir()
    return shutil.copytree(native_version, tmp_path / "1")


def test_a_plan_is_built_once_for_a_gpu_and_a_tensorrt(
    version: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan is kept until the GPU's kind or TensorRT changes; what else is published stays."""
    assert ensure_plan(version).startswith("network.plan built; it differs from fp32 by 0.0")
    assert ensure_plan(version) == "network.plan is there"
    for name, value in (("SM", "8.9"), ("TENSORRT", "101400")):
        monkeypatch.setenv(name, value)
        assert ensure_plan(version).startswith("network.plan built")
    assert tools.read_text() == "built\n" * 3
    note = json.loads((version / "network.plan.json").read_text())
    assert (note["made_for"]["sm"], note["made_for"]["tensorrt"]) == ("8.9", "101400")
    assert not list((version.parent / "configs").iterdir())


def test_a_plan_that_scores_otherwise_is_not_put_in_place(
    version: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan beyond the limit of fp16 is named with its difference, and Triton never sees it."""
    monkeypatch.setenv("SHIFT", "0.02")
    with pytest.raises(GateError, match=r"TensorRT's plan differs from fp32 by 0\.02\d, at most 0\.01"):
        ensure_plan(version)
    monkeypatch.setenv("SHIFT", "nan")
    with pytest.raises(GateError, match="differs from fp32 by nan"):
        ensure_plan(version)
    assert not (version / "network.plan").exists()
    assert tools.exists()


def test_what_is_missing_is_one_line(
    version: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version without a graph, no trtexec, or no driver is one line."""
    assert NETWORK.inputs
    with pytest.raises(ExportError, match="has no graph for TensorRT: publish its checkpoint with"):
        ensure_plan(write_gpu_version(tmp_path / "2", "bf16"))
    with pytest.raises(ExportError, match="/none/trtexec cannot be run: No such file"):
        ensure_plan(version, "/none/trtexec")
    (tools.parent / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 'error: no driver'; exit 9\n")
    with pytest.raises(ExportError, match="nvidia-smi failed with status 9: error: no driver"):
        ensure_plan(version)
    monkeypatch.undo()
