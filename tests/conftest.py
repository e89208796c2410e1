"""What several kinds of tests share: one small published network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.repository import copy_repository

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def published_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository in which a small network with random weights is version 1."""
    from export.publish import publish
    from export.registry import Registry
    from tests.small import save_small_checkpoint

    directory = tmp_path_factory.mktemp("published")
    registry = Registry(copy_repository(directory / "model_repository"))
    weights = save_small_checkpoint(directory / "small.safetensors")
    publish(registry, weights, name="small random network", show_progress=False)
    return registry.repository
