"""Two small networks with different weights as versions 1 and 2, and a Triton on them."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.integration.versions.serving import Serving
from tests.once import made_once
from tests.repository import copy_published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def two_networks(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which version 1 is served."""
    return made_once(tmp_path_factory, "two-published-once", partial(_publish, published_repository))


def _publish(published: Path, directory: Path) -> Path:
    from export.deploy import Deployer, Manner
    from export.publish import Recipe, publish
    from export.registry import Registry
    from tests.small import save_small_checkpoint

    repository = copy_published(published, directory / "model_repository")
    registry = Registry(repository)
    Deployer(registry, None, Manner(who="test")).promote(1, is_tried=True)
    weights = save_small_checkpoint(directory / "other.safetensors", seed=1)
    assert publish(registry, Recipe(weights, "another small network"), show_progress=False) == 2
    return repository


@pytest.fixture
def repository(two_networks: Path, tmp_path: Path) -> Path:
    """A copy of the repository for one test."""
    return shutil.copytree(two_networks, tmp_path / "model_repository", symlinks=True)


@pytest.fixture
def stopped(repository: Path, tmp_path: Path) -> Iterator[Serving]:
    """A Triton on that repository, which the test starts."""
    serving = Serving(repository, tmp_path)
    try:
        yield serving
    finally:
        serving.stop()


@pytest.fixture
def serving(stopped: Serving) -> Serving:
    """A Triton on that repository."""
    stopped.start()
    return stopped
