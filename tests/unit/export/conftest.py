"""A version for GPUs and native backends, whose graph takes seconds to export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.once import made_once

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def published_fp16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the small network in fp16 as version 1, and its checkpoint beside it.

    Change nothing in it.
    """
    return made_once(tmp_path_factory, "published-fp16", _publish) / "model_repository"


@pytest.fixture(scope="session")
def native_version(published_fp16: Path) -> Path:
    """The directory of that version, with its native graph and its pairs."""
    return published_fp16 / "image_reward_network" / "1"


def _publish(directory: Path) -> Path:
    from export.publish import Recipe, publish
    from export.registry import Registry
    from tests.gpu_version import SEED
    from tests.repository import copy_repository
    from tests.small import save_small_checkpoint

    registry = Registry(copy_repository(directory / "model_repository"))
    weights = save_small_checkpoint(directory / "small.safetensors", SEED)
    publish(registry, Recipe(weights, "small", precision="fp16", device="gpu"), show_progress=False)
    return directory
