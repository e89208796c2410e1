"""Triton or the command itself is killed during a promotion.

Afterwards the old or the new version is served.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from export.errors import Undone
from reward import deployment
from tests.integration.versions.serving import under_load

if TYPE_CHECKING:
    from tests.integration.versions.serving import Serving

# This script promotes version 2, and kills itself before the step of this number. With 0 it lists
# the steps.
_PROMOTER: Final = """
import os, signal, sys
from pathlib import Path
from export.deploy import Deployer, Manner
from export.registry import Registry
from export.running_triton import find
repository, last = Path(sys.argv[1]), int(sys.argv[2])
count = 0

def step(name):
    global count
    count += 1
    print(name, flush=True)
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)

Deployer(
    Registry(repository), find(repository, environment={}), Manner(who="test", watch_s=0.2), step=step
).promote(2)
"""

# In the middle of each action on the running Triton.
_IN_TRITON: Final = ("load both", "warm up", "switch the ensemble", "watch", "drop the old")


def _promote_until(serving: Serving, last: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PROMOTER, str(serving.repository), str(last)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _kill_the_command(serving: Serving, steps: list[int]) -> None:
    seen = set()
    with under_load(serving, [1, 2]) as load:
        for number in steps:
            killed = _promote_until(serving, number)
            assert killed.returncode == -9, killed.stderr
            content = deployment.read(serving.repository)
            assert content.stable in {1, 2}
            assert {1, 2} >= serving.triton.loaded() >= {content.stable}
            assert serving.triton.scored_by() in {1, 2}
            seen.add(content.stable)
            serving.deployer().promote(2)
            assert serving.serves() == 2
            serving.deployer().promote(1)
    assert load.failures == []
    assert seen == {1, 2}


def test_a_command_that_is_killed_leaves_the_old_or_the_new(serving: Serving) -> None:
    """No request fails when the command is killed, and the next command tidies up."""
    names = _promote_until(serving, 0).stdout.splitlines()
    assert [name for name in names if name in _IN_TRITON] == list(_IN_TRITON)
    serving.deployer().promote(1)
    _kill_the_command(serving, [names.index(name) + 1 for name in ("warm up", "switch the ensemble")])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_command_that_is_killed_at_any_step(serving: Serving) -> None:
    """The same holds at every step of a promotion."""
    names = _promote_until(serving, 0).stdout.splitlines()
    serving.deployer().promote(1)
    _kill_the_command(serving, list(range(1, len(names) + 1)))


def test_a_command_that_is_asked_to_end_brings_the_old_version_back(serving: Serving) -> None:
    """After Ctrl-C, or when a pipeline is cancelled, the old version is served again.

    The exit status is the one for a change that was undone.
    """
    command = [sys.executable, "-m", "export", "--repository", str(serving.repository)]
    with subprocess.Popen(
        [*command, "promote", "2", "--watch-s", "60"], stderr=subprocess.PIPE, text=True
    ) as promoting:
        assert promoting.stderr is not None
        for line in promoting.stderr:
            if line.startswith("watching version 2"):
                assert deployment.read(serving.repository).stable == 2
                promoting.terminate()
        assert line == "error: interrupted; version 1 is served as before\n"
    assert promoting.returncode == 5
    assert serving.serves() == 1


def _kill_triton(serving: Serving, at: str) -> int:
    """Kill Triton before a step of a promotion, start it again, and return what it serves then."""

    def step(name: str) -> None:
        if name == at:
            serving.server.stop(signal.SIGKILL)

    with suppress(Undone):
        outcome = serving.deployer(step=step).promote(2)
        assert not outcome.is_live
    serving.start()
    return serving.serves()


def test_a_triton_that_is_killed_starts_with_the_old_or_the_new(serving: Serving) -> None:
    """The files agree with each other at any time, and a second promotion succeeds."""
    assert _kill_triton(serving, "switch the ensemble") == 1
    assert "no Triton answers" in deployment.read(serving.repository).history[-1].why
    assert _kill_triton(serving, "drop the old") == 2
    serving.deployer().promote(1)
    serving.deployer().promote(2)
    assert serving.serves() == 2


@pytest.mark.slow
@pytest.mark.parametrize("at", _IN_TRITON)
def test_a_triton_that_is_killed_at_any_step(serving: Serving, at: str) -> None:
    """The same holds at every step of a promotion."""
    assert _kill_triton(serving, at) == (2 if at == "drop the old" else 1)
    serving.deployer().promote(2)
    assert serving.serves() == 2


@pytest.mark.slow
def test_a_frontend_that_is_killed_has_no_part_in_it(serving: Serving) -> None:
    """The promotion goes on without the frontend, and the next one asks for what is served then."""
    serving.start_frontend()

    def step(name: str) -> None:
        if name == "switch the ensemble":
            serving.frontend.stop(signal.SIGKILL)

    assert serving.deployer(step=step).promote(2).is_live
    serving.start_frontend()
    with under_load(serving, [2], rest=True) as load:
        pass
    assert load.failures == []
    assert load.counts["REST"] > 0
