"""The pixels are those of Pillow 12, whichever Pillow is installed: 13 changed the order of its passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "12.3.0", "13.0.0"


@pytest.fixture(scope="module", params=[OLD, NEW])
def pillow(request: pytest.FixtureRequest) -> str:
    """A Pillow of that version, beside the environment's own."""
    _installed(request.param)
    return str(request.param)


def test_the_pixels_are_pillow_12s(pillow: str) -> None:
    """Of 13 modes in 16 shapes each, every resized picture equals Pillow 12's single call, bit for bit."""
    expected, ours = _run(OLD, "theirs"), _run(pillow, "ours")
    assert (expected["pillow"], ours["pillow"]) == (OLD, pillow)
    assert [case for case, pixels in ours["pixels"].items() if pixels != expected["pixels"][case]] == []


def test_the_cases_tell_the_two_apart() -> None:
    """Pillow 13's single call gives other pixels for tall pictures of these: the comparison means something."""
    old, new = _run(OLD, "theirs")["pixels"], _run(NEW, "theirs")["pixels"]
    different = [case for case in old if old[case] != new[case]]
    assert {"RGB 400x1200", "RGBA 400x1200", "L 400x1200"} <= set(different)


def test_the_digest_is_the_same_on_both() -> None:
    """Versions published with one Pillow are served with the other."""
    assert _run(OLD, "ours")["digest"] == _run(NEW, "ours")["digest"]


def _run(version: str, whose: str) -> dict[str, Any]:
    path = f"{_installed(version)}{os.pathsep}{CHECKOUT}"
    command = [sys.executable, "-m", "tests.unit.reward.pillow_pixels", whose]
    done = subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _installed(version: str) -> Path:
    """Find a Pillow that `make test` has installed apart."""
    target = CHECKOUT / ".cache" / "pillow" / version
    if not (target / "PIL").is_dir():
        pytest.skip(f"Pillow {version} is not installed apart; make .cache/pillow/.installed does it")
    return target
