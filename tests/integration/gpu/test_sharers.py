"""Frontends that share one lease, at the moments that are hard to meet: a real ledger, and a stand-in for Triton.

The same frontends with a real Triton are in `test_life.py` and `test_trouble.py`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from frontend.errors import GpuUnavailable, ModelUnavailable
from frontend.gpu.residency import Visit
from frontend.gpu.stay import State
from model_boss import Claim, Lease, LeaseOptions, Ledger, LedgerOptions, LedgerUnavailable, Phase
from model_boss.keys import Keys
from tests.integration.model_boss.proxy import Proxy
from tests.integration.model_boss.servers import RedisServer
from tests.integration.gpu.shared_gpu import CAPACITY, GPU, TTL_S, until
from tests.integration.gpu.stand_in_triton import SERVER_ID, StandInFrontend, StandInTriton

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from model_boss import Row


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of a test's own."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def ledger(redis: RedisServer) -> AsyncIterator[Ledger]:
    """A ledger that began long ago: a new one grants nothing for a time to live."""
    async with Ledger.connect(redis.url, LedgerOptions(ttl_s=TTL_S)) as ledger:
        await _begin(ledger, redis)
        yield ledger


@pytest.fixture
def triton() -> StandInTriton:
    return StandInTriton()


async def test_an_outage_ends_before_the_memory_is_anothers(
    triton: StandInTriton, redis: RedisServer
) -> None:
    """Redis that swallows what it is sent costs no second after the lease's own end: the model is gone in time."""
    ttl_s = 9.0  # it has a tenth of that to be gone
    async with Proxy(redis.port) as proxy, Ledger.connect(redis.url, LedgerOptions(ttl_s=ttl_s)) as ledger:
        await _begin(ledger, redis)
        async with StandInFrontend(triton, proxy.url, ttl_s=ttl_s) as frontend, _other(ledger) as other:
            await frontend.use()
            granting = asyncio.create_task(other.wait_granted(timeout_s=30))
            proxy.drops = True
            await granting
            assert triton.state == "UNAVAILABLE"
        proxy.drops = False


async def test_a_newcomer_whom_triton_does_not_answer(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """It joins the lease, cannot ask Triton, and leaves the lease to those who are at work."""
    async with StandInFrontend(triton, redis.url) as first, StandInFrontend(triton, redis.url) as second:
        fence = await first.use()
        second.control.hides_readiness = True
        with pytest.raises(ModelUnavailable):
            await second.use()
        await asyncio.sleep(1.5 * TTL_S)
        assert triton.unloads == 0
        assert await first.use() == fence
        lease = await _lease(ledger)
        assert lease is not None
        assert lease.fence == fence


async def test_a_frontend_that_cannot_load_what_another_has_loaded(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Both load under one lease; whose call fails has the model neither unloaded nor released under the other."""
    triton.load_s = 0.5
    async with StandInFrontend(triton, redis.url) as first, StandInFrontend(triton, redis.url) as second:
        second.control.fails_to_load = True
        answers = await asyncio.gather(first.use(2.0), second.use(), return_exceptions=True)
        assert isinstance(answers[1], ModelUnavailable)
        assert triton.unloads == 0
        assert await first.use() == answers[0]
        assert await _lease(ledger) is not None


async def test_a_waiter_who_gives_up_in_the_moment_of_the_grant(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """It was granted the lease that another frontend loads under, and does not give that back."""
    first = StandInFrontend(triton, redis.url)
    second = StandInFrontend(triton, redis.url, gpu_wait_s=1)

    async def late(_: bool) -> None:
        await asyncio.sleep(1.2)

    second.ledger.hold_up = late
    async with first, second, _other(ledger, is_always_in_use=True) as other:
        await other.wait_granted(timeout_s=5)
        using = [asyncio.create_task(frontend.use()) for frontend in (first, second)]
        await asyncio.sleep(1.2)
        await other.release()
        fence = await using[0]
        with pytest.raises(GpuUnavailable):
            await using[1]
        await until(lambda: _is_over(second))
        lease = await _lease(ledger)
        assert lease is not None
        assert (lease.fence, lease.phase) == (fence, Phase.ACTIVE)
        assert first.stay.lease.is_held


async def test_a_waiter_who_gives_up_leaves_the_place_to_the_other(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Two frontends wait with one ticket; who came after them is not granted before the one that goes on waiting."""
    first = StandInFrontend(triton, redis.url, gpu_wait_s=1)
    second = StandInFrontend(triton, redis.url)
    late = Lease(ledger, Claim(GPU, "late", "late", "late", 3000, 500))
    async with first, second, _other(ledger, is_always_in_use=True) as other, late:
        await other.wait_granted(timeout_s=5)
        using = [asyncio.create_task(frontend.use()) for frontend in (first, second)]
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(late.wait_granted())
        with pytest.raises(GpuUnavailable):
            await using[0]
        await until(lambda: _is_over(first))
        await other.release()
        assert await using[1] is not None
        assert not waiting.done()
        waiting.cancel()


async def test_a_new_ledger_is_given_time_to_know_the_lease_again(
    triton: StandInTriton, redis: RedisServer
) -> None:
    """Redis restarts empty, and a frontend without a lease is asked first: the other's model stays."""
    ttl_s = 15.0  # the other says again that it holds the lease up to 5 s later
    first = StandInFrontend(triton, redis.url, ttl_s=ttl_s)
    second = StandInFrontend(triton, redis.url, ttl_s=ttl_s)
    async with Ledger.connect(redis.url, LedgerOptions(ttl_s=ttl_s)) as ledger, first, second:
        await _begin(ledger, redis)
        fence = await first.use()
        redis.kill()
        redis.start()
        await ledger.set_capacity(GPU, CAPACITY)
        assert await second.use() == fence
        assert await first.use() == fence
        assert triton.unloads == 0


async def test_a_newcomer_in_an_outage_respects_who_goes_on(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """With fail_open a frontend keeps the model without a lease; another that gets no lease does not unload it."""
    settings: dict[str, Any] = {"gpu_on_outage": "fail_open", "gpu_wait_s": 2 * TTL_S}
    async with (
        StandInFrontend(triton, redis.url, **settings) as first,
        StandInFrontend(triton, redis.url, **settings) as second,
    ):
        await first.use()
        redis.kill()
        with pytest.raises(GpuUnavailable):
            await second.use()
        await first.use()
        assert triton.unloads == 0
        redis.start()
        await ledger.set_capacity(GPU, CAPACITY)
        assert await second.use() == await first.use()


async def test_a_model_whose_lease_nobody_can_prove(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Left behind by a crash, and the ledger away: it goes after a time to live, when it is nobody's any more."""
    crashing = StandInFrontend(triton, redis.url)
    await crashing.__aenter__()
    fence = await crashing.use()
    await crashing.crash()
    redis.kill()
    began_at_s = time.monotonic()
    async with StandInFrontend(triton, redis.url):
        await until(lambda: _is_vacant(triton))
        assert time.monotonic() - began_at_s > TTL_S
    redis.start()
    await ledger.set_capacity(GPU, CAPACITY)
    async with StandInFrontend(triton, redis.url) as frontend:
        assert await frontend.use() != fence


async def test_memory_is_not_given_back_before_it_is_free(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """While Triton does not answer the lease is kept, and unloading is tried again."""
    async with StandInFrontend(triton, redis.url) as frontend, _other(ledger) as other:
        await frontend.use()
        frontend.control.is_cut = True
        granting = asyncio.create_task(other.wait_granted(timeout_s=30))
        await asyncio.sleep(2 * TTL_S)
        assert not granting.done()
        lease = await _lease(ledger)
        assert lease is not None
        assert lease.phase is Phase.YIELDING
        frontend.control.is_cut = False
        await granting
        assert triton.state == "UNAVAILABLE"


async def test_a_model_that_a_crash_left_behind_goes_though_nobody_asks(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Who was idle left it to another, which crashed: the one that lives finds it without a lease, and unloads it."""
    settings = {"idle_release_s": 1.0}
    crashing = StandInFrontend(triton, redis.url, **settings)
    await crashing.__aenter__()
    async with StandInFrontend(triton, redis.url, **settings) as frontend:
        await crashing.use()
        await frontend.use()
        await crashing.crash()
        await until(lambda: _is_over(frontend))
        assert triton.is_loaded  # left to the dead
        await until(lambda: _is_vacant(triton))
    assert await _lease(ledger) is None


async def test_an_end_during_trouble_leaves_the_others_alone(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A frontend that ends while Redis fails once asks again, and unloads nothing under the others."""
    async with StandInFrontend(triton, redis.url) as staying:
        fence = await staying.use()
        async with StandInFrontend(triton, redis.url) as ending:
            await ending.use()
            failures = iter([True, True, False])

            async def fail(is_here: bool) -> None:
                if not is_here and next(failures, False):
                    raise LedgerUnavailable("told to fail")

            ending.ledger.hold_up = fail
        assert triton.unloads == 0
        assert await staying.use() == fence
    assert triton.unloads == 1
    assert await _lease(ledger) is None


async def test_a_lease_in_use_is_not_idle(triton: StandInTriton, redis: RedisServer, ledger: Ledger) -> None:
    """One request that takes longer than a time to live keeps the memory from a less urgent claim."""
    async with StandInFrontend(triton, redis.url) as frontend, _other(ledger, priority=0) as other:
        using = asyncio.create_task(frontend.use(4 * TTL_S))
        await until(lambda: _has_lease(frontend))
        waiting = asyncio.create_task(other.wait_granted(timeout_s=30))
        await using
        assert not waiting.done()
        assert triton.unloads == 0
        waiting.cancel()


async def test_a_newcomer_to_a_lease_that_ends_spares_the_next(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Its word comes after the end of the lease it joined: the model that was loaded since is not its to unload."""
    triton.unload_s = 0.3
    first, second = StandInFrontend(triton, redis.url), StandInFrontend(triton, redis.url)

    async def late(is_here: bool) -> None:
        if not is_here:
            await asyncio.sleep(1.2)

    second.ledger.hold_up = late
    async with first, second:
        await first.use()
        await ledger.ask_to_yield(GPU, SERVER_ID)
        await until(lambda: _is_in(first, State.DRAINING))
        fences = await asyncio.gather(first.use(3.0), second.use())
        assert triton.unloads == 1  # of the lease that was asked for
        assert fences[0] == fences[1]


async def test_an_end_while_the_model_is_loaded(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A frontend that ends while Triton loads waits no longer than its grace, and gives no memory back that is used."""
    triton.load_s = 30
    frontend = StandInFrontend(triton, redis.url, shutdown_grace_s=1)
    async with frontend:
        using = asyncio.create_task(frontend.use())
        await until(lambda: _is_in(frontend, State.LOADING))
        began_at_s = time.monotonic()
    assert time.monotonic() - began_at_s < 10  # its grace is 1 s, loading takes 30
    assert await _lease(ledger) is not None
    assert triton.unloads == 0
    using.cancel()


async def test_looking_at_the_service_is_no_use(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """`/info` counts the asker in while it asks, and does not keep an idle model."""
    async with StandInFrontend(triton, redis.url, idle_release_s=1.0) as frontend:
        await frontend.use()
        ends_at_s = time.monotonic() + 20
        while triton.is_loaded:
            with Visit(frontend, is_use=False) as visit:
                assert visit.is_ready == (frontend.state is State.READY)
            assert time.monotonic() < ends_at_s
            await asyncio.sleep(0.05)
        await until(lambda: _is_over(frontend))
    assert await _lease(ledger) is None


async def test_frontends_of_two_sizes_claim_one(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Settings that change one frontend after the other conflict neither with a lease nor with its place in the queue."""
    first = StandInFrontend(triton, redis.url, vram_mb=3000)
    second = StandInFrontend(triton, redis.url, vram_mb=2500)
    async with first, second, _other(ledger, is_always_in_use=True) as other:
        await other.wait_granted(timeout_s=5)
        using = [asyncio.create_task(first.use())]
        await until(lambda: _is_waiting(ledger))
        using.append(asyncio.create_task(second.use()))
        await asyncio.sleep(0.5)
        await other.release()
        fences = [await task for task in using]
        assert fences[0] == fences[1]


async def _begin(ledger: Ledger, redis: RedisServer) -> None:
    await ledger.set_capacity(GPU, CAPACITY)
    claim = Claim(GPU, "first", "first", "first", 1)
    await ledger.reserve(claim)
    await ledger.cancel(claim)
    with redis.client() as client:
        client.hset(Keys.of("model-boss", GPU).epoch, "grace_until_ms", 1)


def _other(ledger: Ledger, *, priority: int = 900, is_always_in_use: bool = False) -> Lease:
    """Another service, that asks for so much that both do not fit; in use, it gives way to nobody as urgent."""
    claim = Claim(GPU, "diffusion-1", "diffusion", "sdxl", 3000, 500 if is_always_in_use else priority)
    return Lease(ledger, claim, LeaseOptions(is_always_in_use=is_always_in_use))


async def _lease(ledger: Ledger) -> Row | None:
    leases = (await ledger.table(GPU)).leases
    return next((row for row in leases if row.lease_id == SERVER_ID), None)


async def _has_lease(frontend: StandInFrontend) -> bool:
    return frontend.state is not State.UNLOADED and frontend.stay.lease.fence is not None


async def _is_waiting(ledger: Ledger) -> bool:
    return any(row.lease_id == SERVER_ID for row in (await ledger.table(GPU)).waiters)


async def _is_in(frontend: StandInFrontend, state: State) -> bool:
    return frontend.state is state


async def _is_over(frontend: StandInFrontend) -> bool:
    return frontend.state is State.UNLOADED


async def _is_vacant(triton: StandInTriton) -> bool:
    return triton.state == "UNAVAILABLE"
