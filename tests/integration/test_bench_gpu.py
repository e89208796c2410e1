"""The measurement for GPUs, on a CPU and a tiny network: the real Triton serves torch's runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from export.gates import LIMITS
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_measurement_runs_from_end_to_end(tmp_path: Path) -> None:
    """One command compares every precision with fp32, and measures Triton's door and REST.

    Its table says that figures of a CPU and a tiny network do not count.
    """
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--small", "--out", str(out)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "a TINY network: no figure counts" in done.stdout
    assert "failed" not in done.stdout
    figures = json.loads(out.read_text())
    assert set(figures["alone"]) == {"fp32", "fp16", "bf16"}
    for precision, found in figures["alone"].items():
        assert found["ran_on"] == "CPU"
        assert found["max_difference"] <= (1e-5 if precision == "fp32" else LIMITS[precision].max_difference)
        assert set(found["images_per_s"]) == {"1", "4"}
    served = figures["served"]
    assert set(served["pixels"]) == {"1", "4"}
    assert set(served["rest"]) == {"1", "10"}
    assert served["at_load"]["requests"] > 0
    assert served["at_load"]["p50_s"] <= served["at_load"]["p99_s"]
