"""What several kinds of tests share: above all, one small published network."""

from __future__ import annotations

import gc
import os
import shutil
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from local.tritonserver import SHARED_MEMORY
from tests.once import made_once
from tests.repository import copy_repository

# No test asserts a wall-clock time, so hypothesis must not, either. The same code gets the same
# examples: a change is judged by what it changes. `make test-slow` looks for new ones.
settings.register_profile(
    "everyday",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("everyday")


# What is imported for thousands of tests stays. To look through it for garbage again and again took
# a twelfth of the time of an export.
gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage from now on, but not in what is there already."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


ONE_STACK = "tests/integration/with_one_stack/"


class OneStack(LoadFileScheduling):  # type: ignore[misc]
    """Give each process a file at a time, but the files that share a stack to one."""

    def _split_scope(self, nodeid: str) -> str:
        return ONE_STACK if nodeid.startswith(ONE_STACK) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneStack:
    """Take the place of `--dist loadfile`."""
    return OneStack(config, log)


STARTED_S = time.time()
RUN = os.environ.setdefault("IMAJIN_AESTHETIC_TEST_RUN", f"{os.getpid()}-{STARTED_S}")
"""A variable that every process of a test inherits, with everything it starts."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves processes or shared memory behind: a container has little of both."""
    if hasattr(session.config, "workerinput"):
        return  # the process that started the workers looks, after them
    for what, left in (("processes", _processes_left_behind()), ("shared memory", _regions_left_behind())):
        if left:
            print(f"\n{what} left behind:", *left, sep="\n")  # noqa: T201 - pytest's own output is over
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _processes_left_behind(patience_s: float = 10) -> list[str]:
    """Find processes of this run, except those that end with the process that started them."""
    deadline_s = time.monotonic() + patience_s
    while left := [line for line in _command_lines() if "multiprocessing" not in line]:
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.2)
    return left


def _command_lines() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is not ours
            if f"={RUN}\0".encode() in (process / "environ").read_bytes():
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{process.name}: {line[:200]}")
    return found


def _regions_left_behind() -> list[Path]:
    """Find shared memory that Tritons made since the start and that no process has mapped."""
    made = [path for path in SHARED_MEMORY.iterdir() if path.stat().st_mtime >= STARTED_S]
    regions = [path for path in made if path.name.startswith(("imajin_", "triton_python_backend_"))]
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it ended meanwhile, or is not ours
            mapped |= {line.split()[-1] for line in maps.read_text().splitlines()}
    return [path for path in regions if str(path) not in mapped]


@pytest.fixture(scope="session")
def published_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository in which a small network with random weights is version 1.

    Its checkpoint lies beside it.
    """
    template = made_once(tmp_path_factory, "published-once", _publish)
    own = shutil.copytree(template, tmp_path_factory.mktemp("published") / "own")
    return own / "model_repository"


@pytest.fixture
def exported_once(published_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever publishes the small network has its graph from `published_repository`.

    An export takes seconds, and gives the same graph each time.
    """
    from tests.small import copy_graph

    exported = published_repository / "image_reward_network" / "1"
    monkeypatch.setattr("export.publish.to_onnx", partial(copy_graph, exported))


def _publish(directory: Path) -> Path:
    from export.publish import Recipe, publish
    from export.registry import Registry
    from tests.small import save_small_checkpoint

    registry = Registry(copy_repository(directory / "model_repository"))
    weights = save_small_checkpoint(directory / "small.safetensors")
    publish(registry, Recipe(weights, "small random network"), show_progress=False)
    return directory
