"""What several kinds of tests share: one small published network."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests.repository import copy_repository

if TYPE_CHECKING:
    from pathlib import Path

# No test asserts a wall-clock time: hypothesis must not either.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def published_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository in which a small network with random weights is version 1. Its checkpoint lies beside it."""
    # Exporting takes longest; it is done once for all the processes that run tests (pytest-xdist).
    of_all = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        of_all = of_all.parent
    template = of_all / "published-once"
    with FileLock(f"{template}.lock"):
        if not template.exists():
            _publish(tmp_path_factory.mktemp("template")).rename(template)
    own = shutil.copytree(template, tmp_path_factory.mktemp("published") / "own")
    return own / "model_repository"


def _publish(directory: Path) -> Path:
    from export.publish import publish
    from export.registry import Registry
    from tests.small import save_small_checkpoint

    registry = Registry(copy_repository(directory / "model_repository"))
    weights = save_small_checkpoint(directory / "small.safetensors")
    publish(registry, weights, name="small random network", show_progress=False)
    return directory
