"""The real Triton loads no version that would score wrongly, and says why in one line."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from reward import preprocess
from tests.integration.stack import RunningStack
from tests.repository import copy_published
from tests.spoilt import claim_preprocessing, score_nan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (
            lambda version: claim_preprocessing(version, "0123456789abcdef"),
            (
                "made for the preprocessing 0123456789abcdef, and images are prepared by "
                f"{preprocess.digest()} here: publish its checkpoint again"
            ),
        ),
        (score_nan, "gives a score that is no number"),
    ],
    ids=["another preprocessing", "NaN"],
)
def test_it_is_refused_with_the_reason(
    published_repository: Path, tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    """The start ends with status 1 and one line, before anything was scored."""
    repository = tmp_path / "model_repository"
    copy_published(published_repository, repository)
    spoil(repository / "image_reward_network" / "1")
    command = RunningStack(repository, tmp_path).command()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error:")]
    assert done.returncode == 1
    assert len(errors) == 1
    assert why in errors[0]
