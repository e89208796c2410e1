"""Whatever somebody with the password of Redis writes into the ledger's keys, it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable  # noqa: TC003 - of a dictionary
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
    Keys,
    Script,
)
from model_boss.table import read_table, render
from tests.integration.model_boss.test_ledger import GPU, claim, granted, opened
from tests.integration.model_boss.turned_clock import TurnedLedger
from tests.integration.model_boss.world import BEGAN_AT_MS, TTL_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.model_boss.servers import RedisServer

LEASE: dict[str, Any] = {
    "owner": "o",
    "holder": "",
    "model": "m",
    "vram_mb": 4,
    "priority": 5,
    "phase": "active",
    "fence": BEGAN_AT_MS + 7,
    "expires_at_ms": BEGAN_AT_MS + TTL_MS,
    "follow_at_ms": BEGAN_AT_MS + TTL_MS,
    "idle_since_ms": BEGAN_AT_MS,
}
WRONG: dict[str, tuple[object, ...]] = {
    "vram_mb": (-4, 0, 0.5, "4", None, [], float("nan"), float("inf"), 1e300),
    "priority": (-1, 1e9, "high"),
    "phase": ("asleep", None, 3),
    "fence": (0, -1, 1e300, "7"),
    "expires_at_ms": (BEGAN_AT_MS * 2, "soon"),
    "follow_at_ms": (None, BEGAN_AT_MS * 2),
    "idle_since_ms": (None, "then"),
    "owner": (None, 7, {}),
    "holder": (None, 7),
    "model": (None, True),
    "inherited_mb": (-4, "4"),
    "used_mb": (4, -4, "4"),
    "loaded_at_ms": (BEGAN_AT_MS, "then"),
    "wanted_until_ms": (BEGAN_AT_MS * 2, "then"),
}
FORGED: dict[str, str] = {
    "no JSON": "soon",
    "nothing": "",
    "null": "null",
    "a number": "7",
    "a list": "[]",
    "nested too deep": "[" * 5000 + "]" * 5000,
    "not UTF-8": "\udcff",
    "no fields": "{}",
    "of 10 MB": json.dumps({**LEASE, "model": "m" * 10_000_000}),
    **{
        f"{field} {value!r}": json.dumps({**LEASE, field: value})
        for field, values in WRONG.items()
        for value in values
    },
    "a waiter that stands in no queue": json.dumps({**LEASE, "phase": "waiting", "fence": 0}),
}


def _string(key: str) -> Callable[[redis.Redis, Keys], object]:
    return lambda client, keys: client.set(getattr(keys, key), "x")


def _field(key: str, field: str, value: str) -> Callable[[redis.Redis, Keys], object]:
    return lambda client, keys: client.hset(getattr(keys, key), field, value)


WRITTEN: dict[str, Callable[[redis.Redis, Keys], object]] = {
    **{f"{key} is a string": _string(key) for key in Keys._fields},
    "leases is a list": lambda client, keys: client.delete(keys.leases) and client.rpush(keys.leases, "x"),
    "an id of 100 KB": lambda client, keys: client.hset(keys.leases, "x" * 100_000, json.dumps(LEASE)),
    "a stranger in the queue": lambda client, keys: client.zadd(keys.waiters, {"nobody": float("-inf")}),
    "a holder in the queue": lambda client, keys: client.zadd(keys.waiters, {"a": 0}),
    "the last event there can be": lambda client, keys: client.xadd(
        keys.events, {"x": "y"}, id="18446744073709551615-18446744073709551615"
    ),
    "100,000 leases": lambda client, keys: client.hset(
        keys.leases, mapping={f"forged-{i}": json.dumps({**LEASE, "vram_mb": 1}) for i in range(100_000)}
    ),
    "100,000 waiters": lambda client, keys: client.zadd(
        keys.waiters, {f"forged-{i}": -i for i in range(100_000)}
    ),
    **{
        f"{key} {field} {value}": _field(key, field, value)
        for key, field, value in (
            ("capacity", "total_mb", "-20"),
            ("capacity", "total_mb", "nan"),
            ("capacity", "margin_mb", "much"),
            ("capacity", "used_mb", "1e3"),
            ("capacity", "measured_at_ms", str(BEGAN_AT_MS * 2)),
            ("epoch", "fence", "1e300"),
            ("epoch", "fence", str(2**46)),
            ("epoch", "first_fence", "one"),
            ("epoch", "grace_until_ms", str(BEGAN_AT_MS * 2)),
            ("epoch", "started_at_ms", "then"),
            ("epoch", "ttl_ms", "0"),
            ("epoch", "ttl_ms", "-1000"),
            ("epoch", "ticket", "next"),
            ("epoch", "ticket", str(2**62)),
            ("epoch", "server", "another"),
            ("epoch", "unreadable", "few"),
        )
    },
    "a capacity without a margin": lambda client, keys: client.hdel(keys.capacity, "margin_mb"),
    "an epoch without a fence": lambda client, keys: client.hdel(keys.epoch, "fence"),
}


@pytest.fixture
def ledger(server: RedisServer) -> Iterator[TurnedLedger]:
    """A GPU of 20 MiB with a margin of 2, past its first grace, with a holder and a waiter."""
    with server.client() as client:
        ledger = TurnedLedger(client)
        ledger.now_ms = BEGAN_AT_MS - TTL_MS
        ledger.call(CAPACITY, 20, 2, 0, "", "")
        _renew(ledger, 1)
        ledger.now_ms = BEGAN_AT_MS
        yield ledger


def _reserve(ledger: TurnedLedger, lease_id: str) -> list[Any]:
    return ledger.call(RESERVE, lease_id, "o", "", "m", 10, 5, TTL_MS)[0]


def _renew(ledger: TurnedLedger, fence: int) -> list[Any]:
    return ledger.call(RENEW, "a", "o", "", fence, TTL_MS, 1, "m", 10, 5, "active", 10, 20, 2, 10)[0]


def _check_that_it_goes_on(ledger: TurnedLedger, write: Callable[[], object]) -> int:
    """Write into the keys of a holder and a waiter, and call every script.

    Return how much was removed.
    """
    fence = _reserve(ledger, "a")[1]
    ledger.call(COMMIT, "a", "o", fence, 10)
    assert _reserve(ledger, "waiter")[0] == "waiting"
    write()
    ledger.now_ms += 1
    ledger.call(RELEASE, "nobody", "o", 1, "")
    ledger.call(HAND_OVER, "nobody", "o", 1)
    ledger.call(COMMIT, "nobody", "o", 1, "")
    ledger.call(CAPACITY, 20, 2, 1, 10, ledger.now_ms)
    assert _reserve(ledger, "waiter")[0] == "waiting"
    for _ in range(9):  # whatever was forgotten, the holder is there, and nobody is granted its memory
        assert _renew(ledger, fence)[0] == "ok"
        assert _reserve(ledger, "waiter")[0] == "waiting"
        ledger.now_ms += TTL_MS // 3
    assert ledger.call(RELEASE, "a", "o", fence, "")[0] == ["ok"]
    ledger.call(CAPACITY, 20, 2, 1, 0, ledger.now_ms)
    reply = _reserve(ledger, "waiter")
    assert (reply[0], reply[2]) == ("granted", "reserved")
    assert reply[1] > fence
    events: Any = ledger._client.xrange(ledger.keys.events)  # the stream tells of it
    assert (events[-1][1]["event"], events[-1][1]["lease"]) == ("granted", "waiter")
    _, now_ms, facts, *leases = ledger.call(STATUS)[0]
    table = read_table("GPU-0", now_ms, facts, leases)
    assert [row.lease_id for row in table.leases] == ["waiter"]
    assert table.waiters == ()
    assert (f"{table.unreadable} entries that no client wrote" in render(table)) == bool(table.unreadable)
    return table.unreadable


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
def test_a_lease_that_cannot_be_read_is_removed_and_counted(
    ledger: TurnedLedger, server: RedisServer, text: str
) -> None:
    """Whatever is wrong with a lease, every script goes on, and holders keep their memory."""
    with server.client() as client:
        raw = text.encode("utf-8", "surrogateescape")
        count = _check_that_it_goes_on(ledger, lambda: client.hset(ledger.keys.leases, "forged", raw))
        assert count == 1
        events: Any = client.xrange(ledger.keys.events)
        assert ("unreadable", "forged") in [(event["event"], event["lease"]) for _, event in events]


def test_all_that_was_removed_is_counted(ledger: TurnedLedger, server: RedisServer) -> None:
    """Since the ledger began, however long ago."""
    with server.client() as client:
        for number in range(1, 4):
            client.hset(ledger.keys.leases, f"forged-{number}", "soon")
            assert json.loads(ledger.call(STATUS)[0][2])["unreadable"] == number


@pytest.mark.parametrize("text", ["soon", json.dumps({**LEASE, "vram_mb": -4})])
def test_a_holder_whose_lease_was_overwritten_keeps_its_memory(
    ledger: TurnedLedger, server: RedisServer, text: str
) -> None:
    """The ledger takes a lease that it cannot read for a holder's, and waits for that holder."""
    with server.client() as client:
        _check_that_it_goes_on(ledger, lambda: client.hset(ledger.keys.leases, "a", text))


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_keys_of_another_kind_or_size_are_removed(
    ledger: TurnedLedger, server: RedisServer, write: Callable[[redis.Redis, Keys], object]
) -> None:
    """Keys of a wrong type, with senseless numbers or with crowds of entries are removed.

    Such crowds would make every call read for seconds.
    """
    with server.client() as client:
        _check_that_it_goes_on(ledger, lambda: write(client, ledger.keys))
        assert client.hlen(ledger.keys.leases) <= 2


def test_no_more_than_256_hold_or_wait(ledger: TurnedLedger) -> None:
    """Every call reads all leases, so there is a limit to their number.

    One more is refused, and those who are there keep their places.
    """
    _reserve(ledger, "a")
    for number in range(255):
        assert _reserve(ledger, f"waiter-{number}")[:2] == ["waiting", number]
    assert _reserve(ledger, "one more") == ["full", 256]
    assert _reserve(ledger, "waiter-254")[:2] == ["waiting", 254]


@pytest.mark.parametrize("name", ["lease_id", "owner", "holder", "model"])
@pytest.mark.parametrize("script", [RESERVE, RENEW], ids=lambda script: script.name)
def test_names_have_an_end(ledger: TurnedLedger, script: Script, name: str) -> None:
    """A client in any language is refused a name of more than 200 bytes."""
    arguments: dict[str, Any] = {"lease_id": "b", "owner": "o", "holder": "h", "model": "m", "fence": 1}
    arguments |= {"vram_mb": 1, "priority": 5, "ttl_ms": TTL_MS, "in_use": 0, "phase": "active"}
    arguments |= {"used_mb": "", "total_mb": "", "margin_mb": "", "needs_mb": 1, name: "x" * 201}
    with pytest.raises(redis.ResponseError, match=f"invalid argument {name}"):
        ledger.call(script, *(arguments[argument] for argument in script.arguments))
    arguments[name] = "x" * 200
    ledger.call(script, *(arguments[argument] for argument in script.arguments))
    assert len(ledger.call(STATUS)[1].leases) == (script is RESERVE)


async def test_the_table_survives_what_is_no_text(server: RedisServer) -> None:
    """The table can show bytes that are not UTF-8, and keys that name no GPU.

    What a terminal would obey is removed.
    """
    async with opened(server.url) as ledger:
        await granted(ledger, claim("a", 10))
        with server.client() as client:
            keys = Keys.of("model-boss", GPU)
            forged = {**LEASE, "expires_at_ms": 1000 * client.time()[0] + 1500, "model": "\x1b[2J"}
            client.hset(keys.leases, b"\xff", json.dumps(forged))
            client.set("model-boss:{no GPU}:epoch", "x")
        assert await ledger.gpus() == [GPU]
        text = render(await ledger.table(GPU))
        assert "\ufffd" in text
        assert "\x1b" not in text
