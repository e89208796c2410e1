"""The six invariants hold in at least 2,000 random histories (`histories.py` describes them).

MODEL_BOSS_HISTORIES sets their number.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.model_boss.histories import Histories
from tests.integration.model_boss.turned_clock import TurnedLedger

if TYPE_CHECKING:
    from tests.integration.model_boss.servers import RedisServer

HISTORIES: Final = int(os.environ.get("MODEL_BOSS_HISTORIES", "2000"))


def test_every_history_keeps_the_invariants(server: RedisServer) -> None:
    """At every step of every history the six invariants hold.

    The scripts do what the text says.
    """
    with server.client() as client:

        class Run(Histories):
            ledger = TurnedLedger(client)

        run_state_machine_as_test(
            Run,
            settings=settings(
                max_examples=HISTORIES,
                stateful_step_count=30,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
