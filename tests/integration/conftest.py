"""The processes that several files of tests share, and a repository with two versions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.integration import forked_frontend
from tests.once import made_once
from tests.repository import copy_published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.stack import RunningStack


@pytest.fixture(scope="session", autouse=True)
def forks() -> Iterator[None]:
    """End the process that forked the frontends of the tests."""
    yield
    forked_frontend.close()


@pytest.fixture
def unwatched(stack: RunningStack) -> Iterator[RunningStack]:
    """The stack without its watchdog, for tests that count inferences.

    The watchdog's probes are inferences, too.
    """
    with stack.unwatched():
        yield stack


@pytest.fixture(scope="session")
def two_networks(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two small networks, whose weights differ; version 1 is served."""
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
