"""Everything here is marked `clients`; the real service with the demonstration model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.stack import RunningStack
from tests.repository import CHECKOUT, copy_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

API_KEY = "sesame-sesame-sesame"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here; pytest hands every file's hook the items of all."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.clients)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """`python -m local up` with the demonstration model.

    It needs the key `API_KEY`, and every page may ask it.
    """
    from frontend.http.keys import key_line

    directory = tmp_path_factory.mktemp("service")
    repository = copy_repository(directory / "model_repository")
    publish = ["-m", "export", "--repository", str(repository), "ensure", "--model", "demo"]
    subprocess.run([sys.executable, *publish], check=True, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    keys = directory / "keys"
    keys.write_text(key_line("tests", API_KEY) + "\n")
    settings = {"AESTHETIC_API_KEYS_FILE": str(keys), "AESTHETIC_CORS_ORIGINS": "*"}
    running = RunningStack(repository, directory, **settings)
    running.start()
    try:
        yield running
    finally:
        running.stop()
