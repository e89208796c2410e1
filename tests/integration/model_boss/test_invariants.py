"""The six invariants hold in thousands of histories (`histories.py` describes them).

MODEL_BOSS_HISTORIES sets the number of new ones that `make test-slow` makes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.model_boss.histories import Histories
from tests.integration.model_boss.turned_clock import TurnedLedger

if TYPE_CHECKING:
    from tests.integration.model_boss.servers import RedisServer

EVERYDAY: Final = 2000
NEW: Final = int(os.environ.get("MODEL_BOSS_HISTORIES", "10000"))


def test_every_history_keeps_the_invariants(server: RedisServer) -> None:
    """At every step of 2,000 histories, the same every day, the six invariants hold.

    The scripts do what the text says.
    """
    _run(server, EVERYDAY, is_new=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_new_histories_keep_the_invariants(server: RedisServer) -> None:
    """The same holds in histories that nobody has seen before; a failure prints its steps."""
    _run(server, NEW, is_new=True)


def _run(server: RedisServer, histories: int, *, is_new: bool) -> None:
    with server.client() as client:

        class Run(Histories):
            ledger = TurnedLedger(client)

        run_state_machine_as_test(
            Run,
            settings=settings(
                max_examples=histories,
                derandomize=not is_new,
                stateful_step_count=30,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
