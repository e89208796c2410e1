"""The real stack, as a person starts it, for all tests of this folder.

They run in one process (`pytest_xdist_make_scheduler` in tests/conftest.py), so that it is started
once. Large requests leave it with tens of MiB of shared memory, which a container does not have
beside a `local up` that starts. So this folder's name is the last of its kind, and it is a package,
with the last test of which the stack ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.stack import RunningStack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="package")
def stack(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """`python -m local up` with the small network.

    At the end SIGTERM ends it, and nothing may be left behind.
    """
    directory = tmp_path_factory.mktemp("stack")
    key_file = f"--admin-key-file={directory / 'admin.key'}"
    running = RunningStack(published_repository, directory, arguments=[key_file])
    running.start()
    try:
        yield running
    finally:
        running.stop()
