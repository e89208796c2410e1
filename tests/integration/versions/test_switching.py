"""Versions are promoted, canaried and rolled back under load, and no request fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from export.errors import Undone
from reward import deployment
from tests.integration.versions import flawed
from tests.integration.versions.serving import Serving, under_load

if TYPE_CHECKING:
    from collections.abc import Callable


def _changes(serving: Serving, watch_s: float) -> list[tuple[Callable[[], object], int, list[int]]]:
    """Return a round of changes, each with its stable version and the versions then loaded."""
    deployer = serving.deployer(watch_s=watch_s)
    return [
        (lambda: deployer.promote(2), 2, [2]),
        (deployer.rollback, 1, [1]),
        (lambda: deployer.promote(2, canary=0.5), 1, [1, 2]),
        (deployer.rollback, 1, [1]),
        (lambda: deployer.promote(2, shadow=0.5), 1, [1, 2]),
        (lambda: deployer.promote(2), 2, [2]),
        (deployer.rollback, 1, [1]),
    ]


def _switch(serving: Serving, *, times: int, watch_s: float) -> None:
    changes = _changes(serving, watch_s)
    for turn in range(times):
        change, stable, loaded = changes[turn % len(changes)]
        change()
        content = deployment.read(serving.repository)
        assert (content.stable, sorted(content.versions)) == (stable, loaded)
        assert serving.serves() == stable


def test_no_request_fails_while_versions_change(serving: Serving) -> None:
    """Through Triton's HTTP and gRPC, with files and pixels, no request fails.

    Each score is that of the version it names.
    """
    assert abs(serving.expected(1)[1] - serving.expected(2)[1]) > 0.01
    with under_load(serving, [1, 2]) as load:
        _switch(serving, times=7, watch_s=0.3)
    assert load.failures == []
    assert load.versions == {1, 2}
    assert min(load.counts.values()) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_request_fails_in_fifty_changes_at_all_doors(serving: Serving) -> None:
    """In fifty changes no request fails, through Triton or through REST.

    REST answers name their version. Frontends remember for a second what is served.
    """
    serving.start_frontend()
    with under_load(serving, [1, 2], rest=True) as load:
        _switch(serving, times=50, watch_s=1.5)
    assert load.failures == []
    assert load.versions == {1, 2}


def test_the_commands_find_the_running_triton(serving: Serving) -> None:
    """The commands find Triton without arguments, from another terminal.

    What was served first can be rolled back to.
    """
    done = serving.command("promote", "2", "--watch-s", "0.2", "--why", "better on photographs", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (
        0,
        {
            "stable": 2,
            "is_changed": True,
            "is_live": True,
            "says": "version 2 is served",
            "exit_status": 0,
        },
    )
    again = serving.command("promote", "2", "--watch-s", "0.2")
    assert (again.returncode, again.stdout) == (0, "version 2 is served already\n")
    listed = json.loads(serving.command("list", "--json").stdout)
    assert [(entry["version"], entry["role"], entry["is_loaded"]) for entry in listed["versions"]] == [
        (1, "before", False),
        (2, "served", True),
    ]
    assert (listed["triton"], listed["ensemble"]) == (True, 2)
    assert serving.command("rollback", "--watch-s", "0.2").stdout == "version 1 is served\n"
    assert serving.serves() == 1
    last = serving.command("rollback")
    assert (last.returncode, last.stderr) == (
        4,
        "error: no other version was served before the present one\n",
    )
    audit = serving.command("audit").stdout.splitlines()
    assert [line.split()[2:6] for line in audit] == [
        ["promote", "-", "->", "1"],
        ["promote", "1", "->", "2"],
        ["rollback", "2", "->", "1"],
    ]
    assert audit[1].endswith("better on photographs")


def test_the_rest_goes_on_in_the_background(serving: Serving) -> None:
    """With --no-wait the command ends when the checks are passed.

    Another command waits for its turn.
    """
    done = serving.command("promote", "2", "--watch-s", "0.2", "--no-wait")
    assert done.returncode == 0
    assert done.stdout.startswith("checked; the rest goes on in the background")
    assert serving.command("promote", "2", "--watch-s", "0.2").stdout == "version 2 is served already\n"
    assert serving.serves() == 2


def test_where_no_triton_runs_a_change_takes_effect_at_the_start(stopped: Serving) -> None:
    """Without Triton, a change is still checked and tried, and takes effect at the start.

    The command says so, and has an exit status of its own for it.
    """
    done = stopped.command("promote", "2")
    assert done.returncode == 7
    assert done.stdout == "version 2 is served from the next start of Triton: no Triton runs\n"
    stopped.start()
    assert stopped.serves() == 2


def test_a_plain_triton_serves_the_newest(stopped: Serving) -> None:
    """A Triton that somebody starts on the folder alone serves the newest version."""
    keep = ("--http-", "--grpc-", "--metrics-", "--model-repository", "--backend-", "--id", "--allow-gpu")
    stopped.server.command = [
        part
        for number, part in enumerate(stopped.server.command)
        if number == 0 or (part.startswith(keep) and "restricted" not in part)
    ]
    stopped.start()
    assert deployment.read(stopped.repository).stable == 1  # which it does not know
    assert stopped.triton.loaded() == {2}
    assert stopped.triton.scored_by() == -1


def test_a_triton_without_the_served_configuration_is_told(stopped: Serving) -> None:
    """A Triton without the served configuration is reported.

    It would never load another version than the newest.
    """
    stopped.server.command.remove("--model-config-name=served")
    stopped.start()
    flawed.publish_copy(stopped.registry, 1)
    with pytest.raises(Undone, match="was it started with --model-config-name=served"):
        stopped.deployer().promote(2, canary=0.5)


def test_a_second_promotion_may_come_at_once(serving: Serving) -> None:
    """A version that stays is not loaded again beside itself."""
    deployer = serving.deployer()
    before = serving.triton.counts(1).successes
    deployer.promote(2, canary=0.5)
    deployer.rollback()
    # If it had been loaded anew, it would have begun to count from 0.
    assert serving.triton.counts(1).successes >= before
    serving.serves()
    counted = serving.triton.counts(1).successes
    deployer.promote(2, shadow=0.5)
    assert serving.triton.counts(1).successes >= counted > 0
