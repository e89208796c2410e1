"""A Triton on two small networks."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.integration.versions.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
