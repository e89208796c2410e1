"""What several kinds of tests share: one small published network."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from local.tritonserver import SHARED_MEMORY
from tests.repository import copy_repository

# No test asserts a wall-clock time: hypothesis must not either.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


STARTED_S = time.time()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves shared memory behind: a container has little of it."""
    if hasattr(session.config, "workerinput"):
        return  # the process that started the workers looks, after them
    left = _regions_left_behind()
    if left:
        print("\nshared memory was left behind:", *left, sep="\n")  # noqa: T201 - pytest's own output is over
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _regions_left_behind() -> list[Path]:
    """Find the regions of Tritons that were made since the start and that no process has mapped."""
    made = [path for path in SHARED_MEMORY.iterdir() if path.stat().st_mtime >= STARTED_S]
    regions = [path for path in made if path.name.startswith(("imajin_", "triton_python_backend_"))]
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it ended meanwhile, or is not ours
            mapped |= {line.split()[-1] for line in maps.read_text().splitlines()}
    return [path for path in regions if str(path) not in mapped]


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
    from export.publish import Recipe, publish
    from export.registry import Registry
    from tests.small import save_small_checkpoint

    registry = Registry(copy_repository(directory / "model_repository"))
    weights = save_small_checkpoint(directory / "small.safetensors")
    publish(registry, Recipe(weights, "small random network"), show_progress=False)
    return directory
