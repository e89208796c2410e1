"""The table that `status` prints."""

from __future__ import annotations

import json

from model_boss import Phase
from model_boss.table import read_table, render

LEASE = {
    "lease_id": "b",
    "owner": "o",
    "model": "sdxl",
    "vram_mb": 9000,
    "priority": 500,
    "phase": "active",
    "fence": 1_700_000_000_002,
    "expires_at_ms": 1_000_900,
    "idle_since_ms": 1_000_000 - 2500,
    "used_mb": 8000,
    "loaded_at_ms": 1,
}
LEDGER = {"held_mb": 9000, "foreign_mb": 700, "total_mb": 24000, "margin_mb": 500, "ttl_ms": 1000, "fence": 7}


def _lease(**more: object) -> str:
    return json.dumps({**LEASE, **more})


def test_holders_come_by_their_grants_and_waiters_by_their_place() -> None:
    """Holders are in the order of their grants, waiters in the order of the queue.

    The order in which Redis lists them does not matter.
    """
    leases = [
        _lease(lease_id="w1", phase="waiting", fence=0, position=1),
        _lease(lease_id="late", fence=9),
        _lease(lease_id="w0", phase="waiting", fence=0, position=0),
        _lease(lease_id="early", fence=8),
    ]
    table = read_table("GPU-0", 1_000_000, json.dumps(LEDGER), leases)
    assert [row.lease_id for row in table.leases] == ["early", "late"]
    assert [row.lease_id for row in table.waiters] == ["w0", "w1"]
    assert table.leases[0].phase is Phase.ACTIVE
    assert table.free_mb == 24000 - 500 - 9000 - 700


def test_the_table_shows_memory_holders_and_queue() -> None:
    """There is one line for the GPU and one for each lease.

    A lease's line shows how long it still lasts and which process holds it.
    """
    shared = _lease(lease_id="s", fence=7, holder="host:7")
    waiting = _lease(lease_id="w0", phase="waiting", fence=0, position=0)
    text = render(read_table("GPU-0", 1_000_000, json.dumps(LEDGER), [_lease(), shared, waiting]))
    assert text.splitlines() == [
        "GPU-0: 24000 MiB, margin 500, held 9000, foreign 700, free 13800",
        "  LEASE  OWNER  MODEL  MIB   PRIORITY  PHASE       FENCE          EXPIRES  UNUSED  HOLDER",
        "  s      o      sdxl   9000  500       active      7              0.9 s    2.5 s   host:7",
        "  b      o      sdxl   9000  500       active      1700000000002  0.9 s    2.5 s   -",
        "  w0     o      sdxl   9000  500       waiting, 0  -              0.9 s    -       -",
    ]


def test_a_ledger_that_knows_nothing_says_so() -> None:
    """The table says if there is no capacity, if nobody is there, and if the grace still runs."""
    ledger = {"held_mb": 0, "foreign_mb": 0, "grace_until_ms": 1_002_500}
    table = read_table("GPU-0", 1_000_000, json.dumps(ledger), [])
    assert table.free_mb is None
    assert render(table).splitlines() == [
        "GPU-0: 0 MiB held, capacity unknown",
        "  just begun: nothing new is granted for 2.5 s",
        "  nobody holds a lease, nobody waits",
    ]
