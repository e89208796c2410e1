"""A checkout, built once; each module brings up what it needs of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.compose.project import Project, clean_checkout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout, of which the images were built."""
    directory = clean_checkout(tmp_path_factory.mktemp("aesthetic-checkout"))
    Project(directory).compose("build")
    return directory


@pytest.fixture(scope="module")
def project(checkout: Path) -> Iterator[Project]:
    """The demonstration model behind two frontends; nothing is left of it afterwards."""
    project = Project(checkout)
    try:
        project.up(frontends=2)
        yield project
    finally:
        left = project.down()
    assert not left
