"""The life of a holder: waiting, heartbeats, yielding, standing by, losing, giving back."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from model_boss import (
    ClaimRefused,
    DeviceMemory,
    Ending,
    Lease,
    LeaseLost,
    NotGranted,
    Phase,
    Standing,
)
from model_boss.tenure import now_s
from tests.integration.model_boss.test_ledger import GPU, claim, granted, opened
from tests.integration.model_boss.until import until

if TYPE_CHECKING:
    from model_boss import Ledger, Row
    from tests.integration.model_boss.servers import RedisServer

TTL_S = 3.0


async def rows(ledger: Ledger) -> dict[str, Row]:
    table = await ledger.table(GPU)
    return {row.lease_id: row for row in (*table.leases, *table.waiters)}


async def test_a_heartbeat_keeps_the_lease(server: RedisServer) -> None:
    """With heartbeats a lease lives longer than its time to live, until it is released.

    It is committed, and touched by use.
    """
    async with opened(server.url, ttl_s=TTL_S) as ledger, Lease(ledger, claim("a", 10)) as lease:
        fence = await lease.wait_granted(5)
        assert (lease.fence, lease.standing, lease.is_held) == (fence, Standing.RESERVED, True)
        await lease.commit(used_mb=9)
        assert lease.standing is Standing.COMMITTED
        await asyncio.sleep(1.2 * TTL_S)
        lease.touch()
        used_at_ms = (await ledger.table(GPU)).now_ms
        async with asyncio.timeout(30):
            while (row := (await rows(ledger))["a"]).idle_since_ms < used_at_ms:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (row.fence, row.phase) == (fence, Phase.ACTIVE)
        await lease.release()
        assert (lease.fence, lease.standing, lease.is_held) == (None, Standing.NONE, False)
        assert await rows(ledger) == {}


async def test_a_waiter_is_granted_when_the_memory_is_free(server: RedisServer) -> None:
    """A waiter keeps its place by asking again, and gets the memory once it is released."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        fence = await granted(ledger, claim("first", 18))
        first = Lease(ledger, claim("first", 18))
        assert await first.wait_granted(5) == fence
        async with Lease(ledger, claim("second", 18)) as second:
            with pytest.raises(NotGranted, match="lease second: not granted"):
                await second.wait_granted(1.2 * TTL_S)
            assert second.standing is Standing.QUEUED
            assert (await rows(ledger))["second"].position == 0
            await first.release()
            assert await second.wait_granted(5) > fence


async def test_who_stops_waiting_leaves_the_queue(server: RedisServer) -> None:
    """A client that stops waiting leaves the queue, so nobody stands behind it."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        await granted(ledger, claim("first", 18))
        async with Lease(ledger, claim("second", 18)) as second:
            with pytest.raises(NotGranted):
                await second.wait_granted(0.1)
        assert "second" not in await rows(ledger)


async def test_a_claim_that_cannot_be_granted_is_refused_at_once(server: RedisServer) -> None:
    """Nobody waits for more memory than the GPU has."""
    async with opened(server.url, ttl_s=TTL_S) as ledger, Lease(ledger, claim("a", 19)) as lease:
        with pytest.raises(ClaimRefused, match="can give 18 MiB"):
            await lease.wait_granted(60)
        with pytest.raises(LeaseLost):
            await lease.commit()


async def test_a_holder_hears_that_it_is_asked_to_yield(server: RedisServer) -> None:
    """A more urgent claim waits until the holder has finished its work and released the lease.

    Then it is granted.
    """
    async with (
        opened(server.url, ttl_s=TTL_S) as ledger,
        Lease(ledger, claim("a", 10, priority=1)) as lease,
    ):
        await lease.wait_granted(5)
        await lease.commit()
        async with Lease(ledger, claim("urgent", 10, priority=9)) as urgent:
            waiting = asyncio.create_task(urgent.wait_granted(10))
            assert await asyncio.wait_for(lease.wait_ending(), 10) is Ending.YIELD
            assert lease.standing is Standing.YIELDING
            await asyncio.sleep(1.2 * TTL_S)  # it drains, and the lease lasts meanwhile
            assert lease.is_held
            assert not waiting.done()
            await lease.release()
            await waiting


async def test_another_process_stands_by_until_the_holder_is_gone(server: RedisServer) -> None:
    """Another process waits while the holder's heartbeats come.

    When they stop it holds the same lease, finds it committed, and is the only holder.
    """
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        one = Lease(ledger, replace(claim("a", 10), holder="one"))
        async with Lease(ledger, replace(claim("a", 10), holder="two")) as two:
            fence = await one.wait_granted(5)
            await one.commit()
            with pytest.raises(NotGranted):
                await two.wait_granted(1.2 * TTL_S)
            assert (await rows(ledger))["a"].holder == "one"
            _crash(one)
            assert await two.wait_granted(30) == fence + 1
            assert two.standing is Standing.COMMITTED
            assert not one.is_held


def _crash(lease: Lease) -> None:
    """Tell the ledger nothing more."""
    assert lease._keeper is not None
    lease._keeper.cancel()


async def test_a_lease_that_was_released_is_not_asked_for_again(server: RedisServer) -> None:
    """Waiting after `release` raises an error and reserves no memory."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        lease = Lease(ledger, claim("a", 10))
        await lease.wait_granted(5)
        await lease.release()
        with pytest.raises(LeaseLost):
            await lease.wait_granted(1)
        for _ in range(20):  # a heartbeat would be heard of by then
            assert await rows(ledger) == {}
        unasked = Lease(ledger, claim("b", 10))
        await unasked.release()
        with pytest.raises(LeaseLost):
            await unasked.wait_granted(1)
        for _ in range(20):
            assert await rows(ledger) == {}


async def test_a_holder_whose_lease_was_taken_away_stops(server: RedisServer) -> None:
    """A holder that is told `lost` holds nothing, and its release harms nobody."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        lease = Lease(ledger, claim("a", 18))
        fence = await lease.wait_granted(5)
        await ledger.release(claim("a", 18), fence)
        await granted(ledger, claim("b", 18))
        assert await asyncio.wait_for(lease.wait_ending(), 10) is Ending.LOST
        await lease.release()
        assert set(await rows(ledger)) == {"b"}


async def test_a_holder_that_slept_too_long_does_not_renew(server: RedisServer) -> None:
    """After a pause longer than its lease, a holder stops by its own clock.

    It stops even if the ledger would still have it.
    """
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        slept_s = 0.0
        lease = Lease(ledger, claim("a", 10), clock=lambda: now_s() + slept_s)
        await lease.wait_granted(5)
        slept_s = TTL_S  # the whole process stood still, as under SIGSTOP
        assert not lease.is_held
        await asyncio.wait_for(lease.lost.wait(), 10)
        assert lease.fence is None
        await lease.release()


class Meter:
    """A meter that counts its readings and sees 5 MiB of foreign memory; it can hang."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.readings = 0
        self.go_on = threading.Event()
        if not hangs:
            self.go_on.set()

    def read(self, gpu: str) -> DeviceMemory:
        assert gpu == GPU
        self.readings += 1
        self.go_on.wait()
        return DeviceMemory(total_mb=24, used_mb=5)


async def test_holders_and_waiters_measure_the_gpu(server: RedisServer) -> None:
    """Holders and waiters measure before they ask, with each heartbeat, and after the release.

    Foreign memory is not granted.
    """
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        meter = Meter()
        async with (
            opened(server.url, ttl_s=TTL_S, begun=False, meter=meter) as measured,
            Lease(measured, claim("a", 13)) as lease,
        ):
            await lease.wait_granted(5)
            assert meter.readings == 1
            await asyncio.sleep(1.2 * TTL_S)
            assert meter.readings >= 3
            async with Lease(ledger, claim("b", 1)) as second:
                with pytest.raises(NotGranted):
                    await second.wait_granted(0.5)
            before = meter.readings
        assert meter.readings > before


async def test_a_driver_that_hangs_does_not_stop_the_heartbeat(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """If the driver hangs, the lease lives on without measurements.

    The log says so once.
    """
    meter = Meter(hangs=True)
    async with (
        opened(server.url, ttl_s=TTL_S),
        opened(server.url, ttl_s=TTL_S, timeout_s=0.5, begun=False, meter=meter) as ledger,
        Lease(ledger, claim("a", 13)) as lease,
    ):
        await lease.wait_granted(5)
        await asyncio.sleep(1.2 * TTL_S)
        assert lease.is_held
        meter.go_on.set()
    assert meter.readings == 1
    assert [record.message for record in caplog.records if "hangs" in record.message] == [
        "gpu GPU-0 is measured no more: the driver hangs"
    ]


async def test_the_log_tells_a_leases_story(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Every step of a lease is a line that begins with its id."""
    caplog.set_level(logging.INFO, "model_boss")
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        fence = await granted(ledger, claim("first", 18))
        async with Lease(ledger, claim("a", 18)) as lease:
            with pytest.raises(NotGranted):
                await lease.wait_granted(0.1)
            await until(lambda: lease.standing is Standing.QUEUED)
            await ledger.release(claim("first", 18), fence)
            fence = await lease.wait_granted(5)
            await lease.commit()
    assert [record.message for record in caplog.records if record.name == "model_boss"] == [
        "lease a: queued",
        f"lease a: granted, fence {fence}",
        "lease a: reserved",
        "lease a: active",
        "lease a: release",
    ]
