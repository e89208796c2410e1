"""What follows from what a version says about itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reward import manifest
from tests.unit.frontend.triton.stand_in import publish_manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("seconds_per_image", "rows"),
    [(None, 8), (0.0, 64), (0.005, 64), (0.15, 32), (0.34, 8), (0.84, 4), (60.0, 4)],
)
def test_an_execution_on_a_cpu_takes_a_few_seconds(
    tmp_path: Path, seconds_per_image: float | None, rows: int
) -> None:
    """The largest batch is a power of two that was measured to take five seconds at most.

    It is never fewer than the four rows of a promotion's questions.
    """
    content = manifest.read(publish_manifest(tmp_path, version=1) / "image_reward_network" / "1")
    assert replace(content, seconds_per_image=seconds_per_image).max_cpu_rows == rows
