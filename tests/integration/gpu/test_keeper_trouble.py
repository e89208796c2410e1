"""Frontends of one stand-in Triton while something fails.

It may be the ledger, Triton, a frontend, or the keeper itself.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from frontend.deadline import Deadline
from frontend.gpu.keeper import State
from frontend.triton.errors import Unavailable
from frontend.triton.state import ModelState
from model_boss import Ledger, LedgerOptions, Phase, Standing
from tests.integration.gpu.keepers import (
    begin,
    has_trouble,
    is_away,
    is_free,
    is_in,
    is_known,
    is_told,
    is_vacant,
    knows_of_others,
    other_service,
    our_lease,
    stands,
)
from tests.integration.gpu.shared_gpu import CAPACITY, GPU, TTL_S
from tests.integration.gpu.stand_in_triton import StandInFrontend, StandInTriton
from tests.integration.model_boss.proxy import Proxy
from tests.integration.servers import until

if TYPE_CHECKING:
    from tests.integration.model_boss.servers import RedisServer


async def test_an_outage_ends_before_the_memory_is_anothers(
    triton: StandInTriton, redis: RedisServer
) -> None:
    """If Redis swallows every call, the model is still gone before another gets the memory."""
    ttl_s = 9.0  # it has a tenth of that to be gone
    async with Proxy(redis.port) as proxy, Ledger(redis.url, LedgerOptions(ttl_s=ttl_s)) as ledger:
        await begin(ledger, redis)
        async with (
            StandInFrontend(triton, proxy.url, ttl_s=ttl_s) as frontend,
            other_service(ledger) as other,
        ):
            await frontend.use()
            granting = asyncio.create_task(other.wait_granted(timeout_s=30))
            proxy.drops = True
            await granting
            assert triton.state is ModelState.ABSENT
        proxy.drops = False


async def test_a_newcomer_whom_triton_does_not_answer(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A frontend that Triton does not answer serves nobody and takes the model from nobody."""
    async with StandInFrontend(triton, redis.url) as first, StandInFrontend(triton, redis.url) as second:
        fence = await first.use()
        second.control.is_cut = True
        await until(lambda: has_trouble(second))
        with pytest.raises(Unavailable):
            await second.wake(Deadline.after(5))
        await asyncio.sleep(1.5 * TTL_S)
        assert triton.unloads == 0
        assert await first.use() == fence
        lease = await our_lease(ledger)
        assert lease is not None
        assert lease.fence == fence


async def test_a_frontend_that_cannot_load_gives_the_memory_back(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A frontend that cannot load the model tells its requests so and gives the memory back.

    Another frontend that can load it is granted next.
    """
    async with StandInFrontend(triton, redis.url) as first, StandInFrontend(triton, redis.url) as second:
        second.control.fails_to_load = True
        with pytest.raises(Unavailable):
            await second.use()
        await until(lambda: is_free(ledger))
        fence = await first.use()
        await until(lambda: is_in(second, State.READY))
        await second.use()
        lease = await our_lease(ledger)
        assert lease is not None
        assert lease.fence == fence


async def test_a_new_ledger_is_given_time_to_know_the_lease_again(
    triton: StandInTriton, redis: RedisServer
) -> None:
    """After Redis has restarted empty, a model stays until its keeper is known again.

    Here the first question to the new Redis comes from a frontend without a lease.
    """
    ttl_s = 15.0  # the other says again that it holds the lease up to 5 s later
    first = StandInFrontend(triton, redis.url, ttl_s=ttl_s)
    second = StandInFrontend(triton, redis.url, ttl_s=ttl_s)
    async with Ledger(redis.url, LedgerOptions(ttl_s=ttl_s)) as ledger, first:
        await begin(ledger, redis)
        fence = await first.use()
        redis.kill()
        redis.start()
        await ledger.set_capacity(GPU, CAPACITY)
        async with second:
            await second.use()
            await until(lambda: stands(second, Standing.OTHERS))
            assert second.status().fence == fence
            assert await first.use() == fence
            assert triton.unloads == 0


async def test_a_newcomer_in_an_outage_respects_who_goes_on(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """With fail_open, a frontend keeps its model through an outage, without a lease.

    Another frontend, which gets no lease, does not unload that model.
    """
    async with StandInFrontend(triton, redis.url, fail_open=True) as first:
        await first.use()
        redis.kill()
        await until(lambda: stands(first, Standing.UNPROTECTED))
        async with StandInFrontend(triton, redis.url, fail_open=True) as second:
            await second.use()
            await asyncio.sleep(2 * TTL_S)
            assert triton.unloads == 0
            redis.start()
            await ledger.set_capacity(GPU, CAPACITY)
            await until(lambda: is_known(ledger))
            assert triton.unloads == 0
            await first.use()


async def test_a_model_whose_lease_nobody_can_prove(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A model left behind by a crash, with the ledger away, is unloaded after one time to live.

    By then no lease for it can be left.
    """
    crashing = StandInFrontend(triton, redis.url)
    await crashing.__aenter__()
    fence = await crashing.use()
    await crashing.crash()
    redis.kill()
    began_at_s = time.monotonic()
    async with StandInFrontend(triton, redis.url):
        await until(lambda: is_vacant(triton))
        assert time.monotonic() - began_at_s > TTL_S
        assert triton.unloads == 1
    redis.start()
    await ledger.set_capacity(GPU, CAPACITY)
    async with StandInFrontend(triton, redis.url) as frontend:
        assert await frontend.use() != fence


async def test_a_frontend_cut_off_from_the_ledger_unloads_once_at_most(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A frontend cut off from the ledger unloads a model once at most.

    A model loaded after that belongs to a frontend that reaches the ledger, so it stays.
    """
    async with (
        Proxy(redis.port) as proxy,
        StandInFrontend(triton, redis.url) as keeper,
        StandInFrontend(triton, proxy.url) as cut_off,
    ):
        await keeper.use()
        proxy.refuses = True
        proxy.cut()
        await until(lambda: is_away(cut_off))
        ends_at_s = time.monotonic() + 4 * TTL_S
        while time.monotonic() < ends_at_s:
            await keeper.use()
            await asyncio.sleep(0.05)
        assert triton.unloads <= 1
        assert await our_lease(ledger) is not None
        proxy.refuses = False


async def test_memory_is_not_given_back_before_it_is_free(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """While Triton does not answer, the lease is kept and the unload is tried again."""
    async with StandInFrontend(triton, redis.url) as frontend, other_service(ledger) as other:
        await frontend.use()
        frontend.control.is_cut = True
        granting = asyncio.create_task(other.wait_granted(timeout_s=30))
        await asyncio.sleep(2 * TTL_S)
        assert not granting.done()
        lease = await our_lease(ledger)
        assert lease is not None
        assert lease.phase is Phase.YIELDING
        frontend.control.is_cut = False
        await granting
        assert triton.state is ModelState.ABSENT


async def test_a_model_that_a_crash_left_behind_goes_though_nobody_asks(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """The frontend that stood by follows the dead keeper, and unloads the model once it is idle."""
    crashing = StandInFrontend(triton, redis.url, idle_release_s=1.0)
    await crashing.__aenter__()
    fence = await crashing.use()
    async with StandInFrontend(triton, redis.url, idle_release_s=1.0) as frontend:
        await until(lambda: stands(frontend, Standing.OTHERS))
        await crashing.crash()
        await until(lambda: stands(frontend, Standing.COMMITTED))
        assert frontend.status().fence != fence
        await until(lambda: is_vacant(triton))
        await until(lambda: is_free(ledger))


async def test_an_end_during_trouble_leaves_the_others_alone(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A keeper that ends while Redis fails cannot hand over, but unloads nothing.

    Other frontends still use the model.
    """
    async with Proxy(redis.port) as proxy, StandInFrontend(triton, redis.url) as staying:
        async with StandInFrontend(triton, proxy.url, close_s=1.0) as ending:
            await ending.use()
            await until(lambda: stands(staying, Standing.OTHERS))
            await until(lambda: knows_of_others(ending))
            proxy.refuses = True
            proxy.cut()
        assert triton.unloads == 0
        await until(lambda: stands(staying, Standing.COMMITTED))
        assert triton.unloads == 0
    assert triton.unloads == 1
    assert await our_lease(ledger) is None


async def test_a_defect_of_the_keeper_is_told_and_it_begins_again(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """After an unexpected exception the keeper goes on and keeps its lease.

    The log has the error.
    """
    async with StandInFrontend(triton, redis.url) as frontend:
        fence = await frontend.use()
        frontend.control.defects = 1
        await until(lambda: is_told(caplog))
        await asyncio.sleep(1.5 * TTL_S)
        lease = await our_lease(ledger)
        assert lease is not None
        assert lease.fence == fence
    assert await our_lease(ledger) is None


@pytest.mark.usefixtures("ledger")
async def test_a_defect_while_the_model_is_loaded(triton: StandInTriton, redis: RedisServer) -> None:
    """After a defect during a load, Triton's load goes on and the waiting request is served.

    The model is loaded once.
    """
    triton.load_s = 0.5
    async with StandInFrontend(triton, redis.url) as frontend:
        using = asyncio.create_task(frontend.use())
        await until(lambda: is_in(frontend, State.LOADING))
        frontend.control.defects = 1
        frontend._driver.stir()
        assert await using is not None
        await until(lambda: stands(frontend, Standing.COMMITTED))
        assert triton.loads == 1
        assert frontend.control.defects == 0
