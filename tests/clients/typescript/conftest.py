"""The packages, compiled once."""

from __future__ import annotations

import pytest

from tests.clients.typescript.npm import WORKSPACE, run


@pytest.fixture(scope="session")
def built() -> None:
    """Both packages, compiled."""
    assert (WORKSPACE / "node_modules").is_dir(), "run clients/typescript/npm.sh ci first"
    run("run", "build")
