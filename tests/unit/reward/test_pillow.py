"""The pixels are those of Pillow 12, whichever Pillow is installed.

Pillow 13 changed the order in which it resizes width and height.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "12.3.0", "13.0.0"


@pytest.fixture(scope="module", params=[OLD, NEW])
def pillow(request: pytest.FixtureRequest) -> str:
    """A Pillow of this version, installed apart from the environment's own."""
    _installed(request.param)
    return str(request.param)


def test_the_pixels_are_pillow_12s(pillow: str) -> None:
    """Every resized picture is bit for bit what a single call of Pillow 12 gives.

    There are 13 modes, each in 16 shapes.
    """
    expected, ours = _run(OLD, "theirs"), _run(pillow, "ours")
    assert (expected["pillow"], ours["pillow"]) == (OLD, pillow)
    assert [case for case, pixels in ours["pixels"].items() if pixels != expected["pixels"][case]] == []


def test_the_cases_tell_the_two_apart() -> None:
    """For tall pictures of these, a single call of Pillow 13 gives other pixels than Pillow 12.

    Without such cases the comparison would prove nothing.
    """
    old, new = _run(OLD, "theirs")["pixels"], _run(NEW, "theirs")["pixels"]
    different = [case for case in old if old[case] != new[case]]
    assert {"RGB 400x1200", "RGBA 400x1200", "L 400x1200"} <= set(different)


def test_the_digest_is_the_same_on_both() -> None:
    """A version published with one of the two is served with the other."""
    assert _run(OLD, "ours")["digest"] == _run(NEW, "ours")["digest"]


@cache
def _run(version: str, whose: str) -> dict[str, Any]:
    path = f"{_installed(version)}{os.pathsep}{CHECKOUT}"
    command = [sys.executable, "-m", "tests.unit.reward.pillow_pixels", whose]
    done = subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _installed(version: str) -> Path:
    """Find the Pillow that `make test` has installed apart."""
    target = CHECKOUT / ".cache" / "pillow" / version
    if not (target / "PIL").is_dir():
        pytest.skip(f"Pillow {version} is not installed apart; make .cache/pillow/.installed does it")
    return target
