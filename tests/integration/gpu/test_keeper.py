"""Frontends of one Triton, at the moments that are hard to meet: a real ledger, and a stand-in for Triton.

The same frontends with a real Triton are in `test_life.py` and `test_trouble.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import pytest

from frontend.deadline import Deadline
from frontend.gpu.decide import Standing
from frontend.gpu.errors import GpuUnavailable
from frontend.gpu.keeper import State
from frontend.triton.errors import Unavailable
from frontend.triton.state import ModelState
from model_boss import Claim, Lease, LeaseOptions, Ledger, LedgerOptions, Phase
from model_boss.keys import Keys
from tests.integration.gpu.shared_gpu import CAPACITY, GPU, TTL_S, until
from tests.integration.gpu.stand_in_triton import SERVER_ID, StandInFrontend, StandInTriton
from tests.integration.model_boss.proxy import Proxy
from tests.integration.model_boss.servers import RedisServer

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
            assert triton.state is ModelState.ABSENT
        proxy.drops = False


async def test_a_newcomer_whom_triton_does_not_answer(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """It serves nobody, and takes the model from nobody."""
    async with StandInFrontend(triton, redis.url) as first, StandInFrontend(triton, redis.url) as second:
        fence = await first.use()
        second.control.is_cut = True
        await until(lambda: _has_trouble(second))
        with pytest.raises(Unavailable):
            await second.wake(Deadline.after(5))
        await asyncio.sleep(1.5 * TTL_S)
        assert triton.unloads == 0
        assert await first.use() == fence
        lease = await _lease(ledger)
        assert lease is not None
        assert lease.fence == fence


async def test_a_frontend_that_cannot_load_gives_the_memory_back(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Its requests are told so; another that can load is granted next."""
    async with StandInFrontend(triton, redis.url) as first, StandInFrontend(triton, redis.url) as second:
        second.control.fails_to_load = True
        with pytest.raises(Unavailable):
            await second.use()
        await until(lambda: _is_free(ledger))
        fence = await first.use()
        await until(lambda: _is_in(second, State.READY))
        await second.use()
        lease = await _lease(ledger)
        assert lease is not None
        assert lease.fence == fence


async def test_a_waiter_who_gives_up_in_the_moment_of_the_grant(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """It takes nothing from the frontend that goes on waiting."""
    first = StandInFrontend(triton, redis.url)
    second = StandInFrontend(triton, redis.url, wait_s=1.0)
    async with first, second, _other(ledger, is_always_in_use=True) as other:
        await other.wait_granted(timeout_s=5)
        triton.load_s = 0.5
        using = [asyncio.create_task(frontend.use()) for frontend in (first, second)]
        await asyncio.sleep(0.9)
        await other.release()
        with pytest.raises(GpuUnavailable):
            await using[1]
        assert await using[0] is not None
        lease = await _lease(ledger)
        assert lease is not None
        assert lease.phase in (Phase.ACTIVE, Phase.RESERVED)
        assert triton.unloads == 0


async def test_a_waiter_who_gives_up_leaves_the_place_to_the_other(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Two frontends wait with one ticket; who came after them is not granted before the one that goes on waiting."""
    first = StandInFrontend(triton, redis.url, wait_s=1.0)
    second = StandInFrontend(triton, redis.url)
    late = Lease(ledger, Claim(GPU, "late", "late", "late", 3000, 500))
    async with first, second, _other(ledger, is_always_in_use=True) as other, late:
        await other.wait_granted(timeout_s=5)
        using = [asyncio.create_task(frontend.use()) for frontend in (first, second)]
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(late.wait_granted())
        with pytest.raises(GpuUnavailable):
            await using[0]
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
    async with Ledger.connect(redis.url, LedgerOptions(ttl_s=ttl_s)) as ledger, first:
        await _begin(ledger, redis)
        fence = await first.use()
        redis.kill()
        redis.start()
        await ledger.set_capacity(GPU, CAPACITY)
        async with second:
            await second.use()
            await until(lambda: _stands(second, Standing.OTHERS))
            assert second.status().fence == fence
            assert await first.use() == fence
            assert triton.unloads == 0


async def test_a_newcomer_in_an_outage_respects_who_goes_on(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """With fail_open a frontend keeps the model without a lease; another that gets no lease does not unload it."""
    async with StandInFrontend(triton, redis.url, fail_open=True) as first:
        await first.use()
        redis.kill()
        await until(lambda: _stands(first, Standing.UNPROTECTED))
        async with StandInFrontend(triton, redis.url, fail_open=True) as second:
            await second.use()
            await asyncio.sleep(2 * TTL_S)
            assert triton.unloads == 0
            redis.start()
            await ledger.set_capacity(GPU, CAPACITY)
            await until(lambda: _is_known(ledger))
            assert triton.unloads == 0
            await first.use()


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
        assert triton.unloads == 1
    redis.start()
    await ledger.set_capacity(GPU, CAPACITY)
    async with StandInFrontend(triton, redis.url) as frontend:
        assert await frontend.use() != fence


async def test_a_frontend_cut_off_from_the_ledger_unloads_once_at_most(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """What is loaded after that was loaded by a frontend that reaches the ledger: it stays."""
    async with (
        Proxy(redis.port) as proxy,
        StandInFrontend(triton, redis.url) as keeper,
        StandInFrontend(triton, proxy.url) as cut_off,
    ):
        await keeper.use()
        proxy.refuses = True
        proxy.cut()
        await until(lambda: _is_away(cut_off))
        ends_at_s = time.monotonic() + 4 * TTL_S
        while time.monotonic() < ends_at_s:
            await keeper.use()
            await asyncio.sleep(0.05)
        assert triton.unloads <= 1
        assert await _lease(ledger) is not None
        proxy.refuses = False


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
        assert triton.state is ModelState.ABSENT


async def test_a_model_that_a_crash_left_behind_goes_though_nobody_asks(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """The one that stood by follows the dead keeper, and gives the memory back once the model is idle."""
    crashing = StandInFrontend(triton, redis.url, idle_release_s=1.0)
    await crashing.__aenter__()
    fence = await crashing.use()
    async with StandInFrontend(triton, redis.url, idle_release_s=1.0) as frontend:
        await until(lambda: _stands(frontend, Standing.OTHERS))
        await crashing.crash()
        await until(lambda: _stands(frontend, Standing.COMMITTED))
        assert frontend.status().fence != fence
        await until(lambda: _is_vacant(triton))
        await until(lambda: _is_free(ledger))


async def test_a_keeper_that_ends_hands_the_model_over(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Under load: nothing is unloaded, nobody waits, and the memory is leased at every moment."""
    async with StandInFrontend(triton, redis.url, name="staying") as staying:
        async with StandInFrontend(triton, redis.url, name="ending") as ending:
            fence = await ending.use()
            await until(lambda: _stands(staying, Standing.OTHERS))
            await until(lambda: _knows_of_others(ending))
            watching = asyncio.create_task(_watch_lease(ledger))
        held = await _lease(ledger)
        assert held is not None
        assert (held.holder, held.fence != fence) == ("staying", True)
        watching.cancel()
        assert (triton.unloads, triton.loads) == (0, 1)
        assert await staying.use() == held.fence
    assert triton.unloads == 1
    assert await _lease(ledger) is None


async def test_an_end_during_trouble_leaves_the_others_alone(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A keeper that ends while Redis fails cannot hand over, and unloads nothing under the others."""
    async with Proxy(redis.port) as proxy, StandInFrontend(triton, redis.url) as staying:
        async with StandInFrontend(triton, proxy.url, close_s=1.0) as ending:
            await ending.use()
            await until(lambda: _stands(staying, Standing.OTHERS))
            await until(lambda: _knows_of_others(ending))
            proxy.refuses = True
            proxy.cut()
        assert triton.unloads == 0
        await until(lambda: _stands(staying, Standing.COMMITTED))
        assert triton.unloads == 0
    assert triton.unloads == 1
    assert await _lease(ledger) is None


async def test_frontends_that_end_together_leave_nothing(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """The keeper hands over to one that ends, too: nobody follows, and it unloads after all."""
    keeper, other = StandInFrontend(triton, redis.url), StandInFrontend(triton, redis.url)
    for frontend in (keeper, other):
        await frontend.__aenter__()
    await keeper.use()
    await until(lambda: _knows_of_others(keeper))
    await asyncio.gather(*(frontend.__aexit__(None, None, None) for frontend in (keeper, other)))
    assert triton.state is ModelState.ABSENT
    assert await _lease(ledger) is None


async def test_a_lease_in_use_is_not_idle(triton: StandInTriton, redis: RedisServer, ledger: Ledger) -> None:
    """While requests come the memory is kept from a less urgent claim, at whatever door they come."""
    async with StandInFrontend(triton, redis.url) as frontend, _other(ledger, priority=0) as other:
        await frontend.use()
        waiting = asyncio.create_task(other.wait_granted(timeout_s=30))
        ends_at_s = time.monotonic() + 3 * TTL_S
        while time.monotonic() < ends_at_s:
            await triton.infer()  # at Triton's own door
            await asyncio.sleep(0.1)
        assert not waiting.done()
        assert triton.unloads == 0
        await waiting  # unused for a time to live, it is asked for
        assert triton.unloads == 1


async def test_what_triton_has_accepted_is_finished(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A request that runs when the memory is asked for ends well; one that comes later waits for the next grant."""
    async with StandInFrontend(triton, redis.url) as frontend, _other(ledger) as other:
        await frontend.use()
        running = asyncio.create_task(frontend.use(2 * TTL_S))
        await asyncio.sleep(0.1)
        granting = asyncio.create_task(other.wait_granted(timeout_s=30))
        await until(lambda: _is_in(frontend, State.UNLOADING))
        late = asyncio.create_task(frontend.use())
        first = await running
        await granting
        assert not late.done()
        await other.release()
        assert await late != first
        assert (triton.loads, triton.unloads) == (2, 1)


async def test_requests_after_a_yield_load_anew_once(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Those of both frontends wait for the model that one of them loads under the next lease."""
    triton.unload_s = 0.3
    async with StandInFrontend(triton, redis.url) as first, StandInFrontend(triton, redis.url) as second:
        fence = await first.use()
        await ledger.ask_to_yield(GPU, SERVER_ID)
        await until(lambda: _is_in(first, State.UNLOADING))
        await asyncio.gather(first.use(), second.use())
        assert (triton.loads, triton.unloads) == (2, 1)
        lease = await _lease(ledger)
        assert lease is not None
        assert lease.fence != fence


async def test_an_end_while_the_model_is_loaded(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A frontend that ends while Triton loads waits no longer than its grace, and gives no memory back that is used."""
    triton.load_s = 30
    frontend = StandInFrontend(triton, redis.url, close_s=1.0)
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
    """Whoever asks where the model stands does not keep it."""
    async with StandInFrontend(triton, redis.url, idle_release_s=1.0) as frontend:
        await frontend.use()
        ends_at_s = time.monotonic() + 20
        while triton.is_loaded:
            assert frontend.is_ready == (frontend.status().state is State.READY)
            assert await frontend.find_trouble() is None
            assert time.monotonic() < ends_at_s
            await asyncio.sleep(0.05)
        await until(lambda: _is_in(frontend, State.UNLOADED))
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
        await asyncio.gather(*using)
        lease = await _lease(ledger)
        assert lease is not None
        assert (lease.vram_mb, len((await ledger.table(GPU)).leases)) == (3000, 1)


async def test_a_defect_of_the_keeper_is_told_and_it_begins_again(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that nobody expects ends neither the keeping nor the lease, and is in the log."""
    async with StandInFrontend(triton, redis.url) as frontend:
        fence = await frontend.use()
        frontend.control.defects = 1
        await until(lambda: _is_told(caplog))
        await asyncio.sleep(1.5 * TTL_S)
        lease = await _lease(ledger)
        assert lease is not None
        assert lease.fence == fence
    assert await _lease(ledger) is None


async def _is_told(caplog: pytest.LogCaptureFixture) -> bool:
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert not [record for record in told if record.exc_info is None]
    return bool(told)


async def _watch_lease(ledger: Ledger) -> None:
    """Fail, in the log of unhandled errors, where the memory is free for a moment."""
    while True:
        assert await _lease(ledger) is not None
        await asyncio.sleep(0.01)


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


async def _is_free(ledger: Ledger) -> bool:
    return await _lease(ledger) is None


async def _is_known(ledger: Ledger) -> bool:
    return not await _is_free(ledger)


async def _is_waiting(ledger: Ledger) -> bool:
    return any(row.lease_id == SERVER_ID for row in (await ledger.table(GPU)).waiters)


async def _stands(frontend: StandInFrontend, standing: Standing) -> bool:
    return frontend._tenure.standing is standing


async def _knows_of_others(frontend: StandInFrontend) -> bool:
    lease = frontend._tenure.lease
    return lease is not None and lease.others_stand_by


async def _is_away(frontend: StandInFrontend) -> bool:
    return frontend.status().outage is not None


async def _has_trouble(frontend: StandInFrontend) -> bool:
    return await frontend.find_trouble() is not None or frontend._driver.trouble is not None


async def _is_in(frontend: StandInFrontend, state: State) -> bool:
    return frontend.state is state


async def _is_vacant(triton: StandInTriton) -> bool:
    return triton.state is ModelState.ABSENT
