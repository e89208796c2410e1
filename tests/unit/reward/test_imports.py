"""Importing what serving needs, or what a caller needs for tensors, loads no more than that."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "reward",
        "reward.decoding",
        "reward.preprocess",
        "reward.tokenizer",
        "reward.runtimes",
        "frontend.app",
        "local.stack",
    ],
)
def test_serving_imports_no_torch(module: str) -> None:
    """The modules of the request path import neither torch nor onnxruntime."""
    code = f"import sys, {module}; print([m for m in ('torch', 'onnxruntime', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["reward.decoding", "frontend.images.decode_child"])
def test_decoding_imports_no_numpy(module: str) -> None:
    """A process that decodes images starts without NumPy, and works without it."""
    code = (
        f"import sys, {module}; from reward.preprocess import digest; digest(); print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
