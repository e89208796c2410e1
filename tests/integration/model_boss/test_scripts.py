"""What single scripts do where the histories do not look: wrong arguments, strangers, who is asked to yield."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from model_boss.protocol import (
    CAPACITY,
    COMMIT,
    RELEASE,
    RENEW,
    RESERVE,
    SHARE,
    STATUS,
    TOUCH,
    YIELD,
    Script,
)
from tests.integration.model_boss.turned_clock import TurnedLedger
from tests.integration.model_boss.world import BEGAN_AT_MS, TTL_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.model_boss.servers import RedisServer

GOOD: dict[Script, tuple[Any, ...]] = {
    RESERVE: ("a", "o", "m", 4, 5, TTL_MS),
    COMMIT: ("a", "o", 1, ""),
    RENEW: ("a", "o", 1, TTL_MS, "m", 4, 5, "active", "", 20, 2),
    TOUCH: ("a", "o", 1),
    SHARE: ("a", "o", 1, "s", 1),
    RELEASE: ("a", "o", 1),
    CAPACITY: (20, 2, 1, 7, 0),
}
RANGES = {
    "vram_mb": (1, 2**31),
    "priority": (0, 1000),
    "ttl_ms": (1, 3_600_000),
    "fence": (1, 2**46),
    "is_here": (0, 1),
    "used_mb": (0, 2**31),
    "total_mb": (1, 2**31),
    "margin_mb": (0, 2**31),
    "measured_at_ms": (0, 2**46),
}
CASES = [
    (script, name)
    for script, arguments in GOOD.items()
    for name in script.arguments
    if name in RANGES and arguments
]


@pytest.fixture
def ledger(server: RedisServer) -> Iterator[TurnedLedger]:
    """A GPU of 20 MiB with a margin of 2, past its first grace."""
    with server.client() as client:
        ledger = TurnedLedger(client)
        ledger.now_ms = BEGAN_AT_MS
        ledger.call(CAPACITY, 20, 2, 0, "", "")
        ledger.call(RENEW, "nobody", "o", 1, TTL_MS, "m", 1, 0, "active", "", "", "")
        ledger.call(RELEASE, "nobody", "o", 1)
        ledger.now_ms += TTL_MS
        yield ledger


def _grant(ledger: TurnedLedger, lease_id: str, vram_mb: int, priority: int = 5) -> int:
    reply, _ = ledger.call(RESERVE, lease_id, "o", "m", vram_mb, priority, TTL_MS)
    assert reply[0] == "granted"
    ledger.call(COMMIT, lease_id, "o", reply[1], "")
    fence: int = reply[1]
    return fence


@pytest.mark.parametrize(("script", "name"), CASES, ids=lambda case: getattr(case, "name", case))
def test_numbers_out_of_range_change_nothing(ledger: TurnedLedger, script: Script, name: str) -> None:
    """A service in any language is held to the ranges: a negative size would break the sum of all."""
    _, before = ledger.call(STATUS)
    least, most = RANGES[name]
    place = script.arguments.index(name)
    for wrong in (least - 1, most + 1, "1.5", "many", "nan", "-inf"):
        arguments = [*GOOD[script][:place], wrong, *GOOD[script][place + 1 :]]
        with pytest.raises(redis.ResponseError, match=f"invalid argument {name}"):
            ledger.call(script, *arguments)
    assert ledger.call(STATUS)[1] == before
    for right in (least, most):
        ledger.call(script, *GOOD[script][:place], right, *GOOD[script][place + 1 :])


def test_a_phase_is_one_of_three(ledger: TurnedLedger) -> None:
    """Nobody is admitted again as a waiter, or as something unheard of."""
    for phase in ("waiting", "", "loading"):
        with pytest.raises(redis.ResponseError, match="invalid argument phase"):
            ledger.call(RENEW, "a", "o", 1, TTL_MS, "m", 4, 5, phase, "", 20, 2)


@pytest.mark.parametrize("script", [COMMIT, TOUCH, SHARE, RELEASE, RENEW], ids=lambda script: script.name)
def test_the_fence_alone_is_not_enough(ledger: TurnedLedger, script: Script) -> None:
    """Another owner is told `lost`, even under the right fence, and changes nothing."""
    fence = _grant(ledger, "a", 4)
    _, before = ledger.call(STATUS)
    reply, after = ledger.call(script, "a", "a stranger", fence, *GOOD[script][3:])
    assert reply == ["lost"]
    assert after == before


def test_another_owner_cannot_join_a_lease(ledger: TurnedLedger) -> None:
    """A lease id belongs to its owner, and to one size and priority."""
    _grant(ledger, "a", 4, 5)
    for owner, vram_mb, priority in (("stranger", 4, 5), ("o", 5, 5), ("o", 4, 6)):
        assert ledger.call(RESERVE, "a", owner, "m", vram_mb, priority, TTL_MS)[0] == ["conflict"]


def _phases(ledger: TurnedLedger) -> dict[str, str]:
    return {lease_id: lease["phase"] for lease_id, lease in ledger.call(STATUS)[1].leases.items()}


def _asked(ledger: TurnedLedger, vram_mb: int, priority: int) -> set[str]:
    """Return who is asked to yield for this claim."""
    reply, _ = ledger.call(RESERVE, "urgent", "o", "m", vram_mb, priority, TTL_MS)
    assert reply == ["waiting", 0, "memory"]
    return {lease_id for lease_id, phase in _phases(ledger).items() if phase == "yielding"}


def _age(ledger: TurnedLedger, fences: dict[str, int], in_use: set[str]) -> None:
    """Let a time to live go by in which all renew, and some are in use."""
    for _ in range(2):
        ledger.now_ms += TTL_MS // 2
        for lease_id, fence in fences.items():
            ledger.call(RENEW, lease_id, "o", fence, *GOOD[RENEW][3:])
            if lease_id in in_use:
                ledger.call(TOUCH, lease_id, "o", fence)


def test_idle_holders_are_asked_first_whatever_their_priority(ledger: TurnedLedger) -> None:
    """A model that nobody used for a time to live makes room before one that is at work."""
    fences = {"idle": _grant(ledger, "idle", 6, 9), "busy": _grant(ledger, "busy", 6, 1)}
    _age(ledger, fences, in_use={"busy"})
    assert _asked(ledger, 10, 5) == {"idle"}


def test_holders_in_use_are_asked_only_by_the_more_urgent(ledger: TurnedLedger) -> None:
    """Equals wait for each other; who is more urgent does not."""
    _grant(ledger, "a", 10, 5)
    assert _asked(ledger, 10, 5) == set()
    ledger.call(RELEASE, "none", "o", 1)
    assert _asked_by_another(ledger, 10, 6) == {"a"}


def _asked_by_another(ledger: TurnedLedger, vram_mb: int, priority: int) -> set[str]:
    ledger.call(RESERVE, "more urgent", "o", "m", vram_mb, priority, TTL_MS)
    return {lease_id for lease_id, phase in _phases(ledger).items() if phase == "yielding"}


def test_the_lowest_priority_is_asked_before_the_largest(ledger: TurnedLedger) -> None:
    """Among those in use priority decides, and size only among equals."""
    _grant(ledger, "low", 4, 1)
    _grant(ledger, "large", 8, 2)
    _grant(ledger, "small", 4, 1)
    assert _asked(ledger, 6, 9) == {"low"}


def test_the_largest_of_equals_is_asked(ledger: TurnedLedger) -> None:
    """One large holder makes room for what two small ones would have to leave for."""
    for lease_id, vram_mb in (("a", 4), ("large", 8), ("b", 4)):
        _grant(ledger, lease_id, vram_mb, 1)
    assert _asked(ledger, 8, 9) == {"large"}


def test_nobody_is_asked_in_vain(ledger: TurnedLedger) -> None:
    """Where all who may be asked would not be enough, they are left alone."""
    _grant(ledger, "equal", 12, 5)
    _grant(ledger, "less", 4, 1)
    assert _asked(ledger, 10, 5) == set()


def test_no_more_are_asked_than_needed(ledger: TurnedLedger) -> None:
    """One that was chosen first is spared when those after it make exactly enough room."""
    _grant(ledger, "small", 2, 1)
    _grant(ledger, "large", 6, 2)
    _grant(ledger, "equal", 10, 5)
    assert _asked(ledger, 6, 5) == {"large"}


def test_those_who_yield_already_are_counted(ledger: TurnedLedger) -> None:
    """Asking again does not ask more holders than before."""
    _grant(ledger, "a", 8, 1)
    _grant(ledger, "b", 8, 2)
    assert _asked(ledger, 8, 5) == {"a"}
    assert _asked(ledger, 8, 5) == {"a"}


def test_a_stale_measurement_hides_nobody(ledger: TurnedLedger) -> None:
    """Memory that a lease took after the measurement began is not taken for the lease's own."""
    ledger.call(CAPACITY, 20, 2, 1, 5, ledger.now_ms)  # five are foreign
    ledger.now_ms += 1
    _grant(ledger, "a", 5)
    reply, _ = ledger.call(RESERVE, "b", "o", "m", 9, 5, TTL_MS)
    assert reply == ["waiting", 0, "memory"]
    reply, _ = ledger.call(RESERVE, "b", "o", "m", 9, 5, TTL_MS)
    ledger.call(CAPACITY, 20, 2, 1, 5, ledger.now_ms + 1)  # the foreign five are gone, a's five are there
    assert ledger.call(RESERVE, "b", "o", "m", 9, 5, TTL_MS)[0][0] == "granted"


def test_an_older_measurement_does_not_replace_a_newer(ledger: TurnedLedger) -> None:
    """Of two that measure at once, the later reading counts, in whichever order they arrive."""
    ledger.call(CAPACITY, 20, 2, 1, 5, ledger.now_ms)
    _, state = ledger.call(CAPACITY, 20, 2, 1, 0, ledger.now_ms - 1)
    assert state.capacity["used_mb"] == 5


def test_a_limit_set_by_hand_outlives_measurements(ledger: TurnedLedger) -> None:
    """Whoever measures says how much memory there is only where nobody has said it."""
    _, state = ledger.call(CAPACITY, 999, 9, 1, 5, ledger.now_ms)
    assert (state.capacity["total_mb"], state.capacity["margin_mb"]) == (20, 2)
    _, state = ledger.call(CAPACITY, 30, 3, 0, "", "")
    assert (state.capacity["total_mb"], state.capacity["margin_mb"]) == (30, 3)
    assert state.capacity["used_mb"] == 5


def test_only_a_former_fence_is_admitted_again(ledger: TurnedLedger) -> None:
    """After a restart a token counts up to where the new epoch begins its own, and not beyond."""
    ledger.clear()
    ledger.server = "second"
    renewal = (TTL_MS, "m", 4, 5, "active", "", 20, 2)
    assert ledger.call(RENEW, "a", "o", ledger.now_ms + 1, *renewal)[0] == ["lost"]
    assert ledger.call(RENEW, "a", "o", ledger.now_ms, *renewal)[0] == ["ok", "active", ""]


def _share(ledger: TurnedLedger, fence: int, sharer: str, is_here: int = 1) -> list[Any]:
    return ledger.call(SHARE, "a", "o", fence, sharer, is_here)[0]


def _shared(ledger: TurnedLedger) -> tuple[str, dict[str, int] | None]:
    """Return the lease's phase and its sharers, as the keys hold them."""
    lease = ledger.call(STATUS)[1].leases["a"]
    return lease["phase"], lease.get("sharers")


@pytest.mark.parametrize("phase", ["reserved", "active"])
def test_the_last_sharer_to_leave_ends_the_lease(
    ledger: TurnedLedger, server: RedisServer, phase: str
) -> None:
    """Until then it goes on; from then on it yields, which is told once, and the last counts while it unloads."""
    fence: int = ledger.call(RESERVE, "a", "o", "m", 4, 5, TTL_MS)[0][1]
    if phase == "active":
        ledger.call(COMMIT, "a", "o", fence, "")
    assert _share(ledger, fence, "1") == ["ok", 0]
    assert _share(ledger, fence, "2") == ["ok", 1]
    assert _share(ledger, fence, "1") == ["ok", 1]
    assert _share(ledger, fence, "1", 0) == ["ok", 1]
    assert _shared(ledger) == (phase, {"2": ledger.now_ms + TTL_MS})
    assert _share(ledger, fence, "2", 0) == ["yield", 0]
    assert _shared(ledger) == ("yielding", {"2": ledger.now_ms + TTL_MS})
    ledger.now_ms += 1
    assert _share(ledger, fence, "newcomer") == ["yield", 1]
    assert _shared(ledger) == ("yielding", {"2": ledger.now_ms - 1 + TTL_MS})
    assert _share(ledger, fence, "2", 0) == ["yield", 0]
    assert _shared(ledger) == ("yielding", {"2": ledger.now_ms + TTL_MS})
    with server.client() as client:
        events: Any = client.xrange(ledger.keys.events)
    assert [event["event"] for _, event in events].count("yield-asked") == 1


def test_who_never_joined_may_be_the_last_to_leave(ledger: TurnedLedger) -> None:
    """Its joining may have been forgotten, and somebody has to unload."""
    fence = _grant(ledger, "a", 4)
    assert _share(ledger, fence, "1", 0) == ["yield", 0]
    assert _shared(ledger) == ("yielding", {"1": ledger.now_ms + TTL_MS})


def test_of_all_who_are_done_only_one_is_told_to_unload(ledger: TurnedLedger) -> None:
    """Whoever asks, as often as they like, and whether it ever worked or not."""
    fence = _grant(ledger, "a", 4)
    _share(ledger, fence, "1")
    _share(ledger, fence, "2")
    ledger.call(YIELD, "a")
    asked = [_share(ledger, fence, sharer, 0)[1] for sharer in ("1", "2", "1", "2", "newcomer", "1")]
    assert asked == [1, 0, 1, 0, 1, 1]
    assert _shared(ledger) == ("yielding", {"2": ledger.now_ms + TTL_MS})


def test_another_unloads_where_the_one_that_was_told_to_crashed(ledger: TurnedLedger) -> None:
    """From the millisecond on in which its place expires; should it live after all, it hears of the other."""
    fence = _grant(ledger, "a", 4)
    assert _share(ledger, fence, "crashed", 0) == ["yield", 0]
    ledger.now_ms += TTL_MS - 1
    ledger.call(RENEW, "a", "o", fence, *GOOD[RENEW][3:])
    assert _share(ledger, fence, "newcomer", 0) == ["yield", 1]
    ledger.now_ms += 1
    assert _share(ledger, fence, "newcomer") == ["yield", 0]
    assert _share(ledger, fence, "newcomer", 0) == ["yield", 0]
    assert _share(ledger, fence, "crashed", 0) == ["yield", 1]
    assert _shared(ledger) == ("yielding", {"newcomer": ledger.now_ms + TTL_MS})


def test_a_newcomer_to_a_lease_that_yields_is_told_so_and_not_counted(ledger: TurnedLedger) -> None:
    """Who was there before counts on, until it leaves."""
    fence = _grant(ledger, "a", 4)
    _share(ledger, fence, "1")
    ledger.call(YIELD, "a")
    ledger.now_ms += 1
    assert _share(ledger, fence, "newcomer") == ["yield", 1]
    assert _share(ledger, fence, "1") == ["yield", 0]
    assert _shared(ledger) == ("yielding", {"1": ledger.now_ms + TTL_MS})
    assert _share(ledger, fence, "1", 0) == ["yield", 0]


def test_a_sharer_counts_for_one_time_to_live(ledger: TurnedLedger) -> None:
    """One that crashed is forgotten at the next call of any other, to the very millisecond."""
    fence = _grant(ledger, "a", 4)
    _share(ledger, fence, "crashed")
    ledger.now_ms += TTL_MS - 1
    ledger.call(RENEW, "a", "o", fence, *GOOD[RENEW][3:])
    assert _share(ledger, fence, "1") == ["ok", 1]
    ledger.now_ms += 1
    ledger.call(YIELD, "a")
    assert _share(ledger, fence, "newcomer") == ["yield", 1]
    assert _shared(ledger) == ("yielding", {"1": ledger.now_ms - 1 + TTL_MS})
    assert _share(ledger, fence, "crashed") == ["yield", 1]


def test_sharing_does_not_keep_a_lease(ledger: TurnedLedger) -> None:
    """It ends at its time unless somebody renews it, whoever is at work."""
    fence = _grant(ledger, "a", 4)
    ledger.now_ms += TTL_MS - 1
    assert _share(ledger, fence, "1") == ["ok", 0]
    ledger.now_ms += 1
    assert _share(ledger, fence, "1") == ["lost"]


def test_sharers_return_after_redis_has_forgotten_them(ledger: TurnedLedger) -> None:
    """Even to a lease that yields, while its former holders come back; in the grace nobody is known to be new."""
    ledger.clear()
    ledger.server = "second"
    fence = ledger.now_ms
    ledger.call(RENEW, "a", "o", fence, TTL_MS, "m", 4, 5, "yielding", "", 20, 2)
    ledger.now_ms += TTL_MS - 1
    assert _share(ledger, fence, "1") == ["yield", 0]
    assert _share(ledger, fence, "2") == ["yield", 1]
    ledger.call(RENEW, "a", "o", fence, *GOOD[RENEW][3:])
    ledger.now_ms += 1
    assert _share(ledger, fence, "newcomer") == ["yield", 2]
    assert _share(ledger, fence, "1", 0) == ["yield", 1]


def test_sharers_return_to_a_server_that_takes_over(ledger: TurnedLedger) -> None:
    """Its grace begins with whatever is called first: a replica may have missed that somebody joined."""
    fence = _grant(ledger, "a", 4)
    ledger.call(YIELD, "a")
    ledger.server = "second"
    assert _share(ledger, fence, "1") == ["yield", 0]
    assert _share(ledger, fence, "2") == ["yield", 1]


def test_every_step_of_a_lease_is_told(ledger: TurnedLedger, server: RedisServer) -> None:
    """The stream of events tells a lease's story by its id."""
    fence = _grant(ledger, "a", 10, 1)
    ledger.call(RESERVE, "b", "o", "m", 10, 5, TTL_MS)
    ledger.call(YIELD, "a")
    ledger.call(RELEASE, "a", "o", fence)
    ledger.now_ms += TTL_MS
    ledger.call(STATUS)
    with server.client() as client:
        events: Any = client.xrange(ledger.keys.events)
    told = [(event["event"], event["lease"]) for _, event in events if event["lease"] != "nobody"]
    assert told == [
        ("waiting", "a"),
        ("granted", "a"),
        ("committed", "a"),
        ("waiting", "b"),
        ("yield-asked", "a"),
        ("released", "a"),
        ("expired", "b"),
    ]
    assert events[-2][1] == {
        "event": "released",
        "lease": "a",
        "owner": "o",
        "vram_mb": "10",
        "fence": str(fence),
        "at_ms": str(ledger.now_ms - TTL_MS),
    }


def test_the_stream_of_events_stays_short(ledger: TurnedLedger, server: RedisServer) -> None:
    """Nobody has to read it: it is trimmed to about the last thousand."""
    fence = _grant(ledger, "a", 1)
    for _ in range(1500):
        ledger.call(RELEASE, "a", "o", fence)
        fence = ledger.call(RESERVE, "a", "o", "m", 1, 5, TTL_MS)[0][1]
    with server.client() as client:
        assert 1000 <= client.xlen(ledger.keys.events) <= 1200


def test_a_server_that_hides_its_identity_begins_no_epochs(ledger: TurnedLedger) -> None:
    """Where the account may not run INFO, failovers go unseen, and clients that may run it do not disturb."""
    fence = _grant(ledger, "a", 4)
    ledger.server = ""
    assert ledger.call(RENEW, "a", "o", fence, *GOOD[RENEW][3:])[0] == ["ok", "active", 4]
    assert ledger.call(RESERVE, "b", "o", "m", 4, 5, TTL_MS)[0][0] == "granted"
