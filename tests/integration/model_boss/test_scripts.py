"""What single scripts do where the histories do not look.

That is wrong arguments, strangers, and who is asked to yield.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from model_boss.protocol import (
    CAPACITY,
    COMMIT,
    HAND_OVER,
    RELEASE,
    RENEW,
    RESERVE,
    STATUS,
    Script,
)
from tests.integration.model_boss.turned_clock import TurnedLedger
from tests.integration.model_boss.world import BEGAN_AT_MS, TTL_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.model_boss.servers import RedisServer

GOOD: dict[Script, tuple[Any, ...]] = {
    RESERVE: ("a", "o", "", "m", 4, 5, TTL_MS),
    COMMIT: ("a", "o", 1, ""),
    RENEW: ("a", "o", "", 1, TTL_MS, 0, "m", 4, 5, "active", "", 20, 2, 4),
    HAND_OVER: ("a", "o", 1),
    RELEASE: ("a", "o", 1, ""),
    CAPACITY: (20, 2, 1, 7, 0),
}
RANGES = {
    "vram_mb": (1, 2**31),
    "needs_mb": (1, 2**31),
    "priority": (0, 1000),
    "ttl_ms": (1, 3_600_000),
    "fence": (1, 2**46),
    "in_use": (0, 1),
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
        ledger.call(RENEW, "nobody", "o", "", 1, TTL_MS, 0, "m", 1, 0, "active", "", "", "", 1)
        ledger.call(RELEASE, "nobody", "o", 1, "")
        ledger.now_ms += TTL_MS
        yield ledger


def _grant(ledger: TurnedLedger, lease_id: str, vram_mb: int, priority: int = 5, holder: str = "") -> int:
    reply, _ = ledger.call(RESERVE, lease_id, "o", holder, "m", vram_mb, priority, TTL_MS)
    assert reply[0] == "granted"
    ledger.call(COMMIT, lease_id, "o", reply[1], "")
    fence: int = reply[1]
    return fence


@pytest.mark.parametrize(("script", "name"), CASES, ids=lambda case: getattr(case, "name", case))
def test_numbers_out_of_range_change_nothing(ledger: TurnedLedger, script: Script, name: str) -> None:
    """A number out of range is refused: a negative size would break the sum of all leases.

    So a service in any language is held to the ranges.
    """
    _, before = ledger.call(STATUS)
    least, most = (0, 2**46) if (script, name) == (RELEASE, "fence") else RANGES[name]  # a waiter's is 0
    place = script.arguments.index(name)
    for wrong in (least - 1, most + 1, "1.5", "many", "nan", "-inf"):
        arguments = [*GOOD[script][:place], wrong, *GOOD[script][place + 1 :]]
        with pytest.raises(redis.ResponseError, match=f"invalid argument {name}"):
            ledger.call(script, *arguments)
    assert ledger.call(STATUS)[1] == before
    for right in (least, most):
        ledger.call(script, *GOOD[script][:place], right, *GOOD[script][place + 1 :])


def test_a_phase_is_one_of_three(ledger: TurnedLedger) -> None:
    """Nobody is admitted again as a waiter, or in an unknown phase."""
    for phase in ("waiting", "", "loading"):
        with pytest.raises(redis.ResponseError, match="invalid argument phase"):
            ledger.call(RENEW, "a", "o", "", 1, TTL_MS, 0, "m", 4, 5, phase, "", 20, 2, 4)


@pytest.mark.parametrize("script", [COMMIT, HAND_OVER, RELEASE], ids=lambda script: script.name)
def test_the_fence_alone_is_not_enough(ledger: TurnedLedger, script: Script) -> None:
    """Another owner is told `lost`, even with the right fence, and changes nothing."""
    fence = _grant(ledger, "a", 4)
    _, before = ledger.call(STATUS)
    reply, after = ledger.call(script, "a", "a stranger", fence, *GOOD[script][3:])
    assert reply == ledger.call(RENEW, "a", "a stranger", "", fence, *GOOD[RENEW][4:])[0] == ["lost"]
    assert after == before


def test_another_owner_cannot_join_a_lease(ledger: TurnedLedger) -> None:
    """A lease id belongs to one owner, one size and one priority."""
    _grant(ledger, "a", 4, 5)
    for owner, vram_mb, priority in (("stranger", 4, 5), ("o", 5, 5), ("o", 4, 6)):
        assert ledger.call(RESERVE, "a", owner, "", "m", vram_mb, priority, TTL_MS)[0] == ["conflict"]


def _renew(
    ledger: TurnedLedger, lease_id: str, fence: int, *, holder: str = "", in_use: int = 0
) -> list[Any]:
    terms = (TTL_MS, in_use, *GOOD[RENEW][6:])
    return ledger.call(RENEW, lease_id, "o", holder, fence, *terms)[0]


def _phases(ledger: TurnedLedger) -> dict[str, str]:
    return {lease_id: lease["phase"] for lease_id, lease in ledger.call(STATUS)[1].leases.items()}


def _asked(ledger: TurnedLedger, vram_mb: int, priority: int) -> set[str]:
    """Return who is asked to yield for this claim."""
    reply, _ = ledger.call(RESERVE, "urgent", "o", "", "m", vram_mb, priority, TTL_MS)
    assert reply == ["waiting", 0, "memory"]
    return {lease_id for lease_id, phase in _phases(ledger).items() if phase == "yielding"}


def _age(ledger: TurnedLedger, fences: dict[str, int], in_use: set[str]) -> None:
    """Let one time to live pass; all leases are renewed, and some of them are in use."""
    for _ in range(2):
        ledger.now_ms += TTL_MS // 2
        for lease_id, fence in fences.items():
            _renew(ledger, lease_id, fence, in_use=int(lease_id in in_use))


def test_idle_holders_are_asked_first_whatever_their_priority(ledger: TurnedLedger) -> None:
    """A model that was not used for one time to live makes room before one that is in use."""
    fences = {"idle": _grant(ledger, "idle", 6, 9), "busy": _grant(ledger, "busy", 6, 1)}
    _age(ledger, fences, in_use={"busy"})
    assert _asked(ledger, 10, 5) == {"idle"}


def test_holders_in_use_are_asked_only_by_the_more_urgent(ledger: TurnedLedger) -> None:
    """Claims of equal priority wait for each other; a more urgent one does not wait."""
    _grant(ledger, "a", 10, 5)
    assert _asked(ledger, 10, 5) == set()
    ledger.call(RELEASE, "none", "o", 1, "")
    assert _asked_by_another(ledger, 10, 6) == {"a"}


def _asked_by_another(ledger: TurnedLedger, vram_mb: int, priority: int) -> set[str]:
    ledger.call(RESERVE, "more urgent", "o", "", "m", vram_mb, priority, TTL_MS)
    return {lease_id for lease_id, phase in _phases(ledger).items() if phase == "yielding"}


def test_the_lowest_priority_is_asked_before_the_largest(ledger: TurnedLedger) -> None:
    """Among leases in use priority decides, and among equal priorities size decides."""
    _grant(ledger, "low", 4, 1)
    _grant(ledger, "large", 8, 2)
    _grant(ledger, "small", 4, 1)
    assert _asked(ledger, 6, 9) == {"low"}


def test_the_largest_of_equals_is_asked(ledger: TurnedLedger) -> None:
    """One large holder is asked rather than two small ones."""
    for lease_id, vram_mb in (("a", 4), ("large", 8), ("b", 4)):
        _grant(ledger, lease_id, vram_mb, 1)
    assert _asked(ledger, 8, 9) == {"large"}


def test_nobody_is_asked_in_vain(ledger: TurnedLedger) -> None:
    """If all who may be asked would not be enough, nobody is asked."""
    _grant(ledger, "equal", 12, 5)
    _grant(ledger, "less", 4, 1)
    assert _asked(ledger, 10, 5) == set()


def test_no_more_are_asked_than_needed(ledger: TurnedLedger) -> None:
    """A holder that was chosen first is spared if the later ones alone make enough room."""
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
    """A lease that was loaded after a measurement began is not subtracted from it.

    So the measured foreign memory stays foreign.
    """
    ledger.call(CAPACITY, 20, 2, 1, 5, ledger.now_ms)  # five are foreign
    ledger.now_ms += 1
    _grant(ledger, "a", 5)
    reply, _ = ledger.call(RESERVE, "b", "o", "", "m", 9, 5, TTL_MS)
    assert reply == ["waiting", 0, "memory"]
    reply, _ = ledger.call(RESERVE, "b", "o", "", "m", 9, 5, TTL_MS)
    ledger.call(CAPACITY, 20, 2, 1, 5, ledger.now_ms + 1)  # the foreign five are gone, a's five are there
    assert ledger.call(RESERVE, "b", "o", "", "m", 9, 5, TTL_MS)[0][0] == "granted"


def test_an_older_measurement_does_not_replace_a_newer(ledger: TurnedLedger) -> None:
    """Of two measurements at once the later reading counts, in whichever order they arrive."""
    ledger.call(CAPACITY, 20, 2, 1, 5, ledger.now_ms)
    _, state = ledger.call(CAPACITY, 20, 2, 1, 0, ledger.now_ms - 1)
    assert state.capacity["used_mb"] == 5


def test_a_limit_set_by_hand_outlives_measurements(ledger: TurnedLedger) -> None:
    """A measurement sets total and margin only where nobody has set them."""
    _, state = ledger.call(CAPACITY, 999, 9, 1, 5, ledger.now_ms)
    assert (state.capacity["total_mb"], state.capacity["margin_mb"]) == (20, 2)
    _, state = ledger.call(CAPACITY, 30, 3, 0, "", "")
    assert (state.capacity["total_mb"], state.capacity["margin_mb"]) == (30, 3)
    assert state.capacity["used_mb"] == 5


def test_only_a_former_fence_is_admitted_again(ledger: TurnedLedger) -> None:
    """After a restart a fence is accepted if it is smaller than those of the new epoch."""
    ledger.clear()
    ledger.server = "second"
    assert _renew(ledger, "a", ledger.now_ms + 1) == ["lost"]
    assert _renew(ledger, "a", ledger.now_ms) == ["ok", "active", "", 0, 4]


def _ask(ledger: TurnedLedger, holder: str) -> list[Any]:
    return ledger.call(RESERVE, "a", "o", holder, "m", 4, 5, TTL_MS)[0]


def _lease(ledger: TurnedLedger) -> dict[str, Any]:
    return ledger.call(STATUS)[1].leases["a"]


def test_one_process_holds_a_lease_and_the_others_stand_by(ledger: TurnedLedger) -> None:
    """The others are told who holds the lease.

    The holder hears for one time to live that they asked.
    """
    fence = _grant(ledger, "a", 4, holder="one")
    assert _renew(ledger, "a", fence, holder="one") == ["ok", "active", 4, 0, 4]
    before = _lease(ledger)
    assert _ask(ledger, "two") == ["held", "one", fence]
    assert _lease(ledger) == {**before, "wanted_until_ms": ledger.now_ms + TTL_MS}
    ledger.now_ms += 300
    assert _renew(ledger, "a", fence, holder="one") == ["ok", "active", 4, TTL_MS - 300, 4]
    assert _ask(ledger, "one")[:2] == ["granted", fence]


def test_who_missed_two_heartbeats_is_followed(ledger: TurnedLedger) -> None:
    """After two missed heartbeats another process may follow, from that very millisecond on.

    It has a new fence and the same memory. The old holder is told `lost`.
    """
    fence = _grant(ledger, "a", 4, holder="one")
    _renew(ledger, "a", fence, holder="one")
    ledger.now_ms += 666
    assert _ask(ledger, "two") == ["held", "one", fence]
    before = _lease(ledger)
    ledger.now_ms += 1
    reply = _ask(ledger, "two")
    assert reply == ["granted", fence + 1, "active", 4, 4, 20, 2]
    times = {"expires_at_ms": ledger.now_ms + TTL_MS, "follow_at_ms": ledger.now_ms + 667}
    before.pop("wanted_until_ms")
    assert _lease(ledger) == {**before, **times, "holder": "two", "fence": fence + 1}
    assert _renew(ledger, "a", fence, holder="one") == ["lost"]
    assert _ask(ledger, "one") == ["held", "two", fence + 1]


def test_a_holder_that_comes_back_before_anybody_asked_holds_on(ledger: TurnedLedger) -> None:
    """Missed heartbeats alone take nothing away."""
    fence = _grant(ledger, "a", 4, holder="one")
    ledger.now_ms += TTL_MS - 1
    assert _renew(ledger, "a", fence, holder="one")[0] == "ok"
    assert _ask(ledger, "two")[0] == "held"


def test_who_hands_over_is_followed_at_once(ledger: TurnedLedger, server: RedisServer) -> None:
    """After a hand-over the next process that asks has the lease.

    The memory counts as held meanwhile, and the stream of events tells of it.
    """
    fence = _grant(ledger, "a", 4, holder="one")
    assert ledger.call(HAND_OVER, "a", "o", fence)[0] == ["ok"]
    assert ledger.call(RESERVE, "b", "o", "", "m", 15, 5, TTL_MS)[0] == ["waiting", 0, "memory"]
    assert _ask(ledger, "two")[:3] == ["granted", fence + 1, "active"]
    assert _ask(ledger, "three")[:2] == ["held", "two"]
    assert ledger.call(HAND_OVER, "a", "o", fence)[0] == ["lost"]
    with server.client() as client:
        events: Any = client.xrange(ledger.keys.events)
    assert [event["event"] for _, event in events][-2:] == ["waiting", "handed-over"]


def test_who_handed_over_to_nobody_may_ask_again(ledger: TurnedLedger) -> None:
    """If nobody follows, the old holder may have the same lease again; else it just ends."""
    fence = _grant(ledger, "a", 4, holder="one")
    ledger.call(HAND_OVER, "a", "o", fence)
    assert _ask(ledger, "one")[:2] == ["granted", fence]
    ledger.call(HAND_OVER, "a", "o", fence)
    ledger.now_ms += TTL_MS
    assert ledger.call(STATUS)[1].leases == {}


def test_a_lease_that_yields_is_followed_as_it_is(ledger: TurnedLedger) -> None:
    """A process that follows on a yielding lease is told to give the memory back."""
    fence = _grant(ledger, "a", 4, holder="one")
    ledger.call(RESERVE, "urgent", "o", "", "m", 18, 9, TTL_MS)
    ledger.call(HAND_OVER, "a", "o", fence)
    assert _ask(ledger, "two")[2] == "yielding"
    assert _renew(ledger, "a", fence + 1, holder="two")[0] == "yield"


def test_nobody_follows_in_the_grace(ledger: TurnedLedger) -> None:
    """During the grace nobody follows.

    A replica may have forgotten the real holder. Until that one is back, all others stand by.
    """
    fence = _grant(ledger, "a", 4, holder="one")
    ledger.call(HAND_OVER, "a", "o", fence)
    ledger.server = "second"
    assert _ask(ledger, "two") == ["held", "one", fence]
    assert _ask(ledger, "one") == ["waiting", 0, "grace"]
    assert _renew(ledger, "a", fence + 1, holder="three") == ["ok", "active", "", 0, 4]  # it had followed
    assert _lease(ledger)["holder"] == "three"
    assert _renew(ledger, "a", fence, holder="one") == ["lost"]


def test_every_step_of_a_lease_is_told(ledger: TurnedLedger, server: RedisServer) -> None:
    """The stream of events tells the story of a lease by its id."""
    fence = _grant(ledger, "a", 10, 1)
    ledger.call(RESERVE, "b", "o", "", "m", 10, 5, TTL_MS)
    ledger.call(RELEASE, "a", "o", fence, "")
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
    """The stream is trimmed to about the last thousand events, so nobody has to read it."""
    fence = _grant(ledger, "a", 1)
    for _ in range(1500):
        ledger.call(RELEASE, "a", "o", fence, "")
        fence = ledger.call(RESERVE, "a", "o", "", "m", 1, 5, TTL_MS)[0][1]
    with server.client() as client:
        assert 1000 <= client.xlen(ledger.keys.events) <= 1200


def test_a_server_that_hides_its_identity_begins_no_epochs(ledger: TurnedLedger) -> None:
    """If the account may not run INFO, failovers are not noticed, and nobody is disturbed."""
    fence = _grant(ledger, "a", 4)
    ledger.server = ""
    assert _renew(ledger, "a", fence) == ["ok", "active", 4, 0, 4]
    assert ledger.call(RESERVE, "b", "o", "", "m", 4, 5, TTL_MS)[0][0] == "granted"


def _needs(ledger: TurnedLedger, fence: int, known_mb: int, needs_mb: int) -> list[Any]:
    terms = (TTL_MS, 1, "m", known_mb, 5, "active", "", 20, 2, needs_mb)
    return ledger.call(RENEW, "a", "o", "", fence, *terms)[0]


def test_a_lease_grows_where_there_is_room_and_shrinks_always(ledger: TurnedLedger) -> None:
    """A lease grows past those who wait, because its memory is in use already.

    What it gives up is free at once.
    """
    fence = _grant(ledger, "a", 4)
    _grant(ledger, "b", 8)
    assert ledger.call(RESERVE, "c", "o", "", "m", 10, 5, TTL_MS)[0] == ["waiting", 0, "memory"]
    assert _needs(ledger, fence, 4, 11)[-1] == 4  # of 18, less 8 of the other
    assert _needs(ledger, fence, 4, 10)[-1] == 10
    assert _needs(ledger, fence, 10, 4)[-1] == 4
    assert ledger.call(RESERVE, "c", "o", "", "m", 10, 5, TTL_MS)[0] == ["waiting", 0, "memory"]
    assert _needs(ledger, fence, 4, 1)[-1] == 1
    assert _lease(ledger)["used_mb"] == 1  # what was committed before was four


@pytest.mark.parametrize("resize", ["shrink", "grow", "inherit"])
def test_a_lease_that_is_in_use_in_part_hides_no_foreign_memory(ledger: TurnedLedger, resize: str) -> None:
    """A lease whose size changes counts no more as its own use than it may have in use.

    Else a measurement would hide as much foreign memory, and the next claim were granted into it.
    """
    fence = ledger.call(RESERVE, "a", "o", "", "m", 8, 5, TTL_MS)[0][1]
    ledger.call(COMMIT, "a", "o", fence, 2)
    in_use_mb = {"shrink": 0, "grow": 3, "inherit": 2}[resize]
    if resize == "inherit":
        share = ledger.call(RESERVE, "a/2", "o", "", "m", 1, 5, TTL_MS)[0][1]
        ledger.call(RELEASE, "a/2", "o", share, "a")
    else:
        _needs(ledger, fence, 8, 6 if resize == "shrink" else 9)
    assert _lease(ledger)["used_mb"] == in_use_mb
    ledger.now_ms += 1
    ledger.call(CAPACITY, 20, 2, 1, in_use_mb + 5, ledger.now_ms)
    free_mb = 18 - _lease(ledger)["vram_mb"] - 5
    ledger.now_ms += 1
    assert ledger.call(RESERVE, "b", "o", "", "m", free_mb + 1, 5, TTL_MS)[0] == ["waiting", 0, "memory"]
    ledger.call(RELEASE, "b", "o", 0, "")
    assert ledger.call(RESERVE, "b", "o", "", "m", free_mb, 5, TTL_MS)[0][0] == "granted"


def test_a_lease_is_not_resized_by_who_does_not_know_its_size(ledger: TurnedLedger) -> None:
    """A lease that has inherited is not resized by a holder that does not know it yet.

    The holder looks again before it gives any of that up.
    """
    fence = _grant(ledger, "a", 4)
    share = _grant(ledger, "share", 5)
    assert ledger.call(RELEASE, "share", "o", share, "a")[0] == ["ok"]
    assert _needs(ledger, fence, 4, 4)[-1] == 9
    assert _needs(ledger, fence, 4, 3)[-1] == 9
    assert _needs(ledger, fence, 9, 5)[-1] == 5


def test_an_heir_takes_over_what_is_free_at_no_moment(ledger: TurnedLedger, server: RedisServer) -> None:
    """An heir takes memory over under its own fence, with what was committed of it as in use.

    Nobody else is granted it in between.
    """
    _grant(ledger, "a", 4)
    share = _grant(ledger, "share", 5)
    assert ledger.call(RESERVE, "c", "o", "", "m", 10, 5, TTL_MS)[0] == ["waiting", 0, "memory"]
    _, state = ledger.call(RELEASE, "share", "o", share, "a")
    assert (set(state.leases), state.leases["a"]["vram_mb"]) == ({"a", "c"}, 9)
    assert state.leases["a"]["used_mb"] == 9
    assert ledger.call(RESERVE, "c", "o", "", "m", 10, 5, TTL_MS)[0] == ["waiting", 0, "memory"]
    with server.client() as client:
        events: Any = client.xrange(ledger.keys.events)
    told = [(event["event"], event["lease"]) for _, event in events]
    assert ("resized", "a") in told
    assert ("released", "share") in told


@pytest.mark.parametrize("heir", ["share", "nobody", "waiter", "stranger"])
def test_who_cannot_inherit_leaves_the_memory_free(ledger: TurnedLedger, heir: str) -> None:
    """These cannot inherit: the lease itself, nobody, a waiting lease, and another owner's."""
    share = _grant(ledger, "share", 10)
    ledger.call(RESERVE, "stranger", "a stranger", "", "m", 1, 5, TTL_MS)
    ledger.call(RESERVE, "waiter", "o", "", "m", 18, 5, TTL_MS)
    _, state = ledger.call(RELEASE, "share", "o", share, heir)
    assert {name: lease["vram_mb"] for name, lease in state.leases.items()} == {"stranger": 1, "waiter": 18}


def test_who_only_waits_leaves_nothing(ledger: TurnedLedger) -> None:
    """The heir of a place in the queue gets no memory by it."""
    _grant(ledger, "a", 18)
    ledger.call(RESERVE, "share", "o", "", "m", 5, 5, TTL_MS)
    reply, state = ledger.call(RELEASE, "share", "o", 0, "a")
    assert (reply, state.leases["a"]["vram_mb"]) == (["ok"], 18)


def test_a_lease_that_shrank_before_a_failover_shrinks_again(ledger: TurnedLedger) -> None:
    """A replica that missed how a lease shrank does not give its holder the memory back.

    That may have been granted to another, who is admitted again in the grace.
    """
    fence = _grant(ledger, "a", 17)
    ledger.server = "a replica that missed what followed"
    assert _needs(ledger, fence, 8, 8)[-1] == 8
    assert (_lease(ledger)["vram_mb"], _lease(ledger)["used_mb"]) == (8, 8)


def test_what_was_inherited_is_kept_in_the_grace(ledger: TurnedLedger) -> None:
    """What a lease inherited stays its own in the grace, whether its holder knows of it or not."""
    fence = _grant(ledger, "a", 4)
    share = _grant(ledger, "share", 5)
    ledger.call(RELEASE, "share", "o", share, "a")
    ledger.server = "second"
    assert _needs(ledger, fence, 4, 4)[-1] == 9
    assert _needs(ledger, fence, 9, 9)[-1] == 9
    assert "inherited_mb" not in _lease(ledger)


def test_nobody_grows_in_the_grace(ledger: TurnedLedger) -> None:
    """In the grace no lease grows, because others may have been forgotten.

    From the millisecond in which it ends, there is room or none.
    """
    fence = _grant(ledger, "a", 4)
    ledger.server = "second"
    assert _needs(ledger, fence, 4, 10)[-1] == 4
    ledger.now_ms += TTL_MS - 1
    assert _needs(ledger, fence, 4, 10)[-1] == 4
    ledger.now_ms += 1
    assert _needs(ledger, fence, 4, 10)[-1] == 10
