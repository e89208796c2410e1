"""Change every comparison and condition of the Lua scripts, one by one, to test the tests.

    python -m tests.integration.model_boss.mutate [--histories 600] [script ...]

For each change it tells whether the histories notice. `docs/model-boss.md` has the results. The
ranges that `whole` checks are left out: no client of the histories sends a number out of range, and
`test_scripts.py` holds them.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import run_state_machine_as_test
from redis import RedisError

from model_boss.protocol import source
from tests.integration.model_boss.histories import Histories
from tests.integration.model_boss.servers import RedisServer
from tests.integration.model_boss.turned_clock import TurnedLedger

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

SCRIPTS: Final = ("_ledger", "reserve", "commit", "renew", "hand_over", "release", "status", "capacity")
OPPOSITES: Final = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "~=", "~=": "=="}
_COMPARISON: Final = re.compile(r"(?<= )(<=|>=|==|~=|<|>)(?= )")


def mutants(name: str) -> Iterator[tuple[int, str, str]]:
    """Yield line number, changed line and changed text for each change.

    Changed are comparisons, except those of `whole`, and bare conditions.
    """
    lines = source(name).split("\n")
    for number, line in enumerate(lines):
        if line.lstrip().startswith("--") or "value % 1" in line:
            continue
        for found in _COMPARISON.finditer(line):
            mutated = line[: found.start()] + OPPOSITES[found[1]] + line[found.end() :]
            yield number + 1, mutated.strip(), "\n".join([*lines[:number], mutated, *lines[number + 1 :]])
        condition = re.search(r"\bif (.+) then", line)
        if condition and not _COMPARISON.search(line):
            mutated = line[: condition.start(1)] + f"not ({condition[1]})" + line[condition.end(1) :]
            yield number + 1, mutated.strip(), "\n".join([*lines[:number], mutated, *lines[number + 1 :]])


def notices(client: redis.Redis, name: str, text: str, histories: int) -> str | None:
    """Return how the histories failed under this change, or `None` if they passed."""

    class Run(Histories):
        ledger = TurnedLedger(client, {name: text})

    try:
        run_state_machine_as_test(
            Run,
            settings=settings(
                max_examples=histories,
                stateful_step_count=40,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except (AssertionError, RedisError, FlakyFailure) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--histories", type=int, default=600)
    parser.add_argument("scripts", nargs="*", default=SCRIPTS)
    parsed = parser.parse_args()
    survived = 0
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        for name in parsed.scripts:
            for number, line, text in mutants(name):
                noticed = notices(server.client(), name, text, parsed.histories)
                survived += noticed is None
                verdict = f"caught    {noticed}" if noticed else "SURVIVED"
                sys.stdout.write(f"{name}.lua:{number}\t{line}\t{verdict[:90]}\n")
                sys.stdout.flush()
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
