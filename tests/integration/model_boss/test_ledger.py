"""The Python client with a real Redis, by Redis's own clock."""

from __future__ import annotations

import asyncio
import errno
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Connection

from model_boss import (
    Capacity,
    Claim,
    ClaimRefused,
    DeviceMemory,
    Granted,
    Held,
    Ledger,
    LedgerOptions,
    LedgerUnavailable,
    Meter,
    Phase,
    Waiting,
    WaitReason,
)
from model_boss.protocol import Keys
from tests.integration.model_boss.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TTL_S = 2.0  # a busy machine may stand still for a good part of a second
GPU = "GPU-0"


@asynccontextmanager
async def opened(
    url: str,
    *,
    ttl_s: float = TTL_S,
    timeout_s: float = 2,
    begun: bool = True,
    waits_grace: bool = False,
    meter: Meter | None = None,
) -> AsyncIterator[Ledger]:
    """Open a ledger with a GPU of 20 MiB.

    If `begun`, it has begun and its first grace is over. The grace is cut short, unless
    `waits_grace`.
    """
    async with Ledger(
        url, LedgerOptions(ttl_s=ttl_s, timeout_s=timeout_s, meter=meter, margin_mb=4)
    ) as ledger:
        if begun:
            await ledger.set_capacity(GPU, Capacity(20, 2))
            await ledger.reserve(claim("first", 1))
            await ledger.release(claim("first", 1))
            if waits_grace:
                await asyncio.sleep(ttl_s)
            else:
                epoch = Keys.of(ledger.options.prefix, GPU).epoch
                await ledger._connection.redis.hset(epoch, "grace_until_ms", "0")
        yield ledger


def claim(lease_id: str, vram_mb: int, priority: int = 5, owner: str = "o") -> Claim:
    return Claim(GPU, lease_id, owner, "model", vram_mb, priority)


async def granted(ledger: Ledger, wanted: Claim) -> int:
    answer = await ledger.reserve(wanted)
    assert isinstance(answer, Granted)
    return answer.fence


@pytest.mark.parametrize("fails", [False, True])
async def test_no_cancellation_is_lost(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """A task that is cancelled just when its command has been sent ends, and does not go on.

    Python 3.11 forgets such a cancellation where redis-py sends, also if sending fails.
    """
    send = Connection._send_packed_command

    async def send_and_cancel(connection: Connection, command: Any) -> None:
        await send(connection, command)
        caller.cancel()
        if fails:
            raise ConnectionResetError(errno.ECONNRESET, "reset")

    async with opened(server.url) as ledger:

        async def ask_without_end() -> None:
            while True:
                with suppress(LedgerUnavailable):
                    await ledger.table(GPU)

        monkeypatch.setattr(Connection, "_send_packed_command", send_and_cancel)
        caller = asyncio.create_task(ask_without_end())
        await asyncio.wait({caller}, timeout=10)
        monkeypatch.undo()
        assert caller.cancelled()


async def test_a_lease_goes_through_its_life(server: RedisServer) -> None:
    """A lease is reserved, committed, renewed in use, asked to yield, and released.

    After that its old fence is answered `lost`.
    """
    async with opened(server.url) as ledger:
        wanted = claim("a", 10)
        answer = await ledger.reserve(wanted)
        assert isinstance(answer, Granted)
        fence = answer.fence
        assert (answer.phase, answer.capacity) == (Phase.RESERVED, Capacity(20, 2))
        assert await ledger.reserve(wanted) == answer
        committed = await ledger.commit(wanted, answer, used_mb=9)
        assert committed == replace(answer, phase=Phase.ACTIVE, used_mb=9)
        assert await ledger.renew(wanted, committed, in_use=True) == committed
        assert await ledger.reserve(claim("urgent", 10, priority=9)) == Waiting(0, WaitReason.MEMORY)
        assert await ledger.renew(wanted, committed) == replace(committed, phase=Phase.YIELDING)
        assert not await ledger.release(wanted, fence + 1)
        assert await ledger.release(wanted, fence)
        assert not await ledger.release(wanted, fence)
        assert await ledger.renew(wanted, committed) is None
        assert await ledger.release(claim("urgent", 10, priority=9))
        assert await granted(ledger, wanted) > fence


async def test_a_ledger_that_begins_grants_nothing_for_one_time_to_live(server: RedisServer) -> None:
    """A new ledger cannot know whether it is new or has forgotten its holders.

    So it grants nothing at first.
    """
    async with opened(server.url, begun=False) as ledger:
        await ledger.set_capacity(GPU, Capacity(20, 2))
        began_at_s = time.monotonic()
        assert await ledger.reserve(claim("a", 1)) == Waiting(0, WaitReason.GRACE)
        while not isinstance(await ledger.reserve(claim("a", 1)), Granted):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert time.monotonic() - began_at_s >= TTL_S - 0.01


async def test_time_is_redis_time(server: RedisServer) -> None:
    """The table's times of expiry come from the server's clock and this ledger's time to live."""
    async with opened(server.url) as ledger:
        await granted(ledger, claim("a", 1))
        table = await ledger.table(GPU)
        with server.client() as client:
            seconds, _ = client.time()
        assert abs(table.now_ms / 1000 - seconds) < 5
        assert 0 < table.leases[0].expires_at_ms - table.now_ms <= TTL_S * 1000


async def test_a_holder_that_falls_silent_frees_its_memory(server: RedisServer) -> None:
    """A silent holder's memory is free within one time to live.

    After that its fence is worth nothing.
    """
    async with opened(server.url) as ledger:
        fence = await granted(ledger, claim("crashed", 18))
        assert await ledger.reserve(claim("next", 18)) == Waiting(0, WaitReason.MEMORY)
        await asyncio.sleep(TTL_S + 0.05)
        await granted(ledger, claim("next", 18))
        assert await ledger.commit(claim("crashed", 18), Granted(fence)) is None


async def test_refusals_say_why(server: RedisServer) -> None:
    """A refusal that waiting would not change is an error of its own kind."""
    async with opened(server.url) as ledger:
        await granted(ledger, claim("a", 10))
        with pytest.raises(ClaimRefused, match="belongs to another owner"):
            await ledger.reserve(claim("a", 10, owner="another"))
        with pytest.raises(ClaimRefused, match="GPU-0 can give 18 MiB"):
            await ledger.reserve(claim("b", 19))
        async with opened(server.url, ttl_s=9, begun=False) as other:
            with pytest.raises(ClaimRefused, match="runs with 2000 ms"):
                await other.reserve(claim("b", 1))
            with pytest.raises(ClaimRefused, match="runs with 2000 ms"):
                await other.renew(claim("a", 10), Granted(1))


async def test_a_lease_is_handed_from_process_to_process(server: RedisServer) -> None:
    """One process holds the lease, and the others are told so; the holder hears of them.

    The process that follows gets a new fence.
    """
    async with opened(server.url) as ledger:
        one, two = (replace(claim("a", 10), holder=name) for name in ("one", "two"))
        answer = await ledger.reserve(one)
        assert isinstance(answer, Granted)
        fence = answer.fence
        assert await ledger.renew(one, answer) == replace(answer, others_stand_by=False)
        assert await ledger.reserve(two) == Held("one", fence)
        assert await ledger.renew(one, answer) == replace(answer, others_stand_by=True)
        assert (await ledger.table(GPU)).leases[0].holder == "one"
        assert await ledger.hand_over(one, fence)
        assert await granted(ledger, two) == fence + 1
        assert await ledger.renew(one, answer) is None


async def test_a_gpu_of_unknown_size_grants_nothing(server: RedisServer) -> None:
    """On a GPU of unknown size, claims are refused after the grace until somebody sets the size."""
    async with opened(server.url, begun=False) as ledger:
        assert isinstance(await ledger.reserve(claim("a", 1)), Waiting)
        await asyncio.sleep(TTL_S + 0.05)
        with pytest.raises(ClaimRefused, match="nobody has said"):
            await ledger.reserve(claim("a", 1))
        await ledger.set_capacity(GPU, Capacity(20, 2))
        await granted(ledger, claim("a", 1))


class Gauge:
    """A GPU whose used memory the test sets."""

    def __init__(self, used_mb: int | None) -> None:
        self.used_mb = used_mb

    def read(self, gpu: str) -> DeviceMemory | None:
        assert gpu == GPU
        return None if self.used_mb is None else DeviceMemory(total_mb=24, used_mb=self.used_mb)


async def test_memory_used_outside_the_ledger_is_not_granted(server: RedisServer) -> None:
    """A process that uses memory without a lease makes others wait until it is gone."""
    meter = Gauge(used_mb=9)
    async with opened(server.url, meter=meter) as ledger:
        assert await ledger.measure(GPU) == Capacity(20, 2)
        assert (await ledger.table(GPU)).foreign_mb == 9
        assert await ledger.reserve(claim("a", 10)) == Waiting(0, WaitReason.MEMORY)
        meter.used_mb = 8
        await ledger.measure(GPU)
        answer = await ledger.reserve(claim("a", 10))
        assert isinstance(answer, Granted)
        await ledger.commit(claim("a", 10), answer, used_mb=7)
        await asyncio.sleep(0.005)  # what was loaded in the millisecond of a measurement looks foreign
        meter.used_mb = 8 + 7
        await ledger.measure(GPU)
        table = await ledger.table(GPU)
        assert (table.held_mb, table.foreign_mb, table.free_mb) == (10, 8, 0)


async def test_a_meter_says_how_much_there_is_where_nobody_has(server: RedisServer) -> None:
    """The first meter sets total and margin; one that cannot see the GPU sets nothing."""
    async with opened(server.url, begun=False) as unmeasured:
        assert await unmeasured.room_mb(GPU) is None
    async with opened(server.url, begun=False, meter=Gauge(None)) as ledger:
        assert await ledger.measure(GPU) is None
        assert (await ledger.table(GPU)).total_mb is None
    async with opened(server.url, begun=False, meter=Gauge(1)) as ledger:
        assert await ledger.room_mb(GPU) == 20
        assert await ledger.measure(GPU) == Capacity(24, 4)


async def test_scripts_are_loaded_again_where_redis_forgot_them(server: RedisServer) -> None:
    """A server that was flushed or restarted does not know the scripts, so their text is sent."""
    async with opened(server.url) as ledger:
        with server.client() as client:
            client.script_flush()
        await granted(ledger, claim("a", 1))


async def test_status_finds_the_gpus(server: RedisServer) -> None:
    """Every GPU that was claimed or given a size is found, under this prefix alone."""
    async with opened(server.url) as ledger:
        await ledger.set_capacity("host:1", Capacity(5))
        other = LedgerOptions(prefix="another", ttl_s=TTL_S)
        async with Ledger(server.url, other) as elsewhere:
            await elsewhere.set_capacity("host:2", Capacity(5))
            assert await elsewhere.gpus() == ["host:2"]
        assert await ledger.gpus() == [GPU, "host:1"]


async def test_leases_of_other_gpus_do_not_count(server: RedisServer) -> None:
    """Each GPU has its own memory and queue."""
    async with opened(server.url) as ledger:
        await granted(ledger, claim("a", 18))
        await ledger.set_capacity("host:1", Capacity(5))
        assert (await ledger.table("host:1")).held_mb == 0


async def test_an_acl_user_needs_no_more_than_the_documented_rights(tmp_path: Path) -> None:
    """The account in `docs/model-boss.md` can do all that a holder does."""
    rights = (
        "~model-boss:* +evalsha +script|load +type +unlink +hget +hmget +hgetall +hlen +hset +hdel +hincrby "
        "+zadd +zrem +zrank +zrange +zcard +xadd +time +info +client|setinfo +client|setname +hello +ping"
    )
    with RedisServer(tmp_path) as guarded:
        with guarded.client() as client:
            version = tuple(map(int, client.info("server")["redis_version"].split(".")[:2]))
            allowed = rights if version >= (7, 2) else rights.replace("+client|setinfo ", "")
            client.execute_command("ACL", "SETUSER", "boss", "on", ">s3cret", "-@all", *allowed.split())
            client.execute_command("ACL", "SETUSER", "default", "off")
        async with opened(f"redis://boss:s3cret@127.0.0.1:{guarded.port}") as ledger:
            answer = await ledger.reserve(claim("a", 18))
            assert isinstance(answer, Granted)
            assert await ledger.renew(claim("a", 18), answer) == answer
            assert isinstance(await ledger.reserve(claim("b", 1)), Waiting)
            assert await ledger.release(claim("a", 18), answer.fence)
            assert (await ledger.table(GPU)).held_mb == 0
            server_id = await ledger._connection.redis.hget("model-boss:{GPU-0}:epoch", "server")
            assert server_id is not None
            assert len(server_id) == 40
        async with opened(f"redis://boss:wrong@127.0.0.1:{guarded.port}", begun=False) as ledger:
            with pytest.raises(LedgerUnavailable):
                await ledger.table(GPU)


async def test_a_cluster_runs_the_scripts(tmp_path: Path) -> None:
    """All keys of a GPU are in one slot; else a cluster would refuse every script."""
    with RedisServer(tmp_path, "--cluster-enabled", "yes") as node:
        with node.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            while "cluster_state:ok" not in str(client.execute_command("CLUSTER", "INFO")):
                time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs yet
        async with opened(node.url) as ledger:
            fence = await granted(ledger, claim("a", 18))
            assert await ledger.release(claim("a", 18), fence)
