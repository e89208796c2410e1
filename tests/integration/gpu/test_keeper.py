"""Frontends of one Triton at moments that are hard to meet.

The ledger is real, Triton is a stand-in. `test_life.py` and `test_trouble.py` have the same
frontends with a real Triton.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from frontend.gpu.errors import GpuUnavailable
from frontend.gpu.keeper import State
from frontend.triton.state import ModelState
from model_boss import Claim, Lease, Ledger, Phase, Standing
from tests.integration.gpu.keepers import (
    is_in,
    is_waiting,
    knows_of_others,
    other_service,
    our_lease,
    stands,
    watch_lease,
)
from tests.integration.gpu.shared_gpu import GPU, TTL_S
from tests.integration.gpu.stand_in_triton import StandInFrontend, StandInTriton
from tests.integration.servers import until

if TYPE_CHECKING:
    from tests.integration.model_boss.servers import RedisServer


async def test_a_waiter_who_gives_up_in_the_moment_of_the_grant(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A frontend that gives up just as it is granted takes nothing from one that still waits."""
    first = StandInFrontend(triton, redis.url)
    second = StandInFrontend(triton, redis.url, wait_s=1.0)
    async with first, second, other_service(ledger, is_always_in_use=True) as other:
        await other.wait_granted(timeout_s=5)
        triton.load_s = 0.5
        using = [asyncio.create_task(frontend.use()) for frontend in (first, second)]
        await asyncio.sleep(0.9)
        await other.release()
        with pytest.raises(GpuUnavailable):
            await using[1]
        assert await using[0] is not None
        lease = await our_lease(ledger)
        assert lease is not None
        assert lease.phase in (Phase.ACTIVE, Phase.RESERVED)
        assert triton.unloads == 0


async def test_a_waiter_who_gives_up_leaves_the_place_to_the_other(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """If one of two waiting frontends gives up, the other keeps their common place in the queue.

    A claim that came later is not granted before it.
    """
    first = StandInFrontend(triton, redis.url, wait_s=1.0)
    second = StandInFrontend(triton, redis.url)
    late = Lease(ledger, Claim(GPU, "late", "late", "late", 3000, 500))
    async with first, second, other_service(ledger, is_always_in_use=True) as other, late:
        await other.wait_granted(timeout_s=5)
        using = [asyncio.create_task(frontend.use()) for frontend in (first, second)]
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(late.wait_granted())
        with pytest.raises(GpuUnavailable):
            await using[0]
        await other.release()
        await using[1]  # under the lease of either: one keeps the model, the other stands by
        assert await our_lease(ledger) is not None
        assert not waiting.done()
        waiting.cancel()


async def test_a_keeper_that_ends_hands_the_model_over(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A keeper that ends hands the model over to another frontend.

    Nothing is unloaded, no request waits, and the memory is leased at every moment.
    """
    async with StandInFrontend(triton, redis.url, name="staying") as staying:
        async with StandInFrontend(triton, redis.url, name="ending") as ending:
            fence = await ending.use()
            await until(lambda: stands(staying, Standing.OTHERS))
            await until(lambda: knows_of_others(ending))
            watching = asyncio.create_task(watch_lease(ledger))
        held = await our_lease(ledger)
        assert held is not None
        assert (held.holder, held.fence != fence) == ("staying", True)
        assert not watching.done()  # the memory was leased at every moment
        watching.cancel()
        assert (triton.unloads, triton.loads) == (0, 1)
        assert await staying.use() == held.fence
    assert triton.unloads == 1
    assert await our_lease(ledger) is None


async def test_frontends_that_end_together_leave_nothing(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """If the frontend that should follow ends as well, the keeper unloads the model after all."""
    keeper, other = StandInFrontend(triton, redis.url), StandInFrontend(triton, redis.url)
    for frontend in (keeper, other):
        await frontend.__aenter__()
    await keeper.use()
    await until(lambda: knows_of_others(keeper))
    await asyncio.gather(*(frontend.__aexit__(None, None, None) for frontend in (keeper, other)))
    assert triton.state is ModelState.ABSENT
    assert await our_lease(ledger) is None


async def test_a_lease_in_use_is_not_idle(triton: StandInTriton, redis: RedisServer, ledger: Ledger) -> None:
    """While requests come, by any way, a less urgent claim does not get the memory."""
    async with StandInFrontend(triton, redis.url) as frontend, other_service(ledger, priority=0) as other:
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
    """A request that is running when the memory is asked for still ends well.

    A request that comes later waits for the next grant.
    """
    async with StandInFrontend(triton, redis.url) as frontend, other_service(ledger) as other:
        await frontend.use()
        running = asyncio.create_task(frontend.use(2 * TTL_S))
        await asyncio.sleep(0.1)
        granting = asyncio.create_task(other.wait_granted(timeout_s=30))
        await until(lambda: is_in(frontend, State.UNLOADING))
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
    """After a yield, one frontend loads the model under the next lease, and loads it once.

    The requests of both frontends wait for it.
    """
    triton.unload_s = 0.3
    async with StandInFrontend(triton, redis.url) as first, StandInFrontend(triton, redis.url) as second:
        fence = await first.use()
        async with other_service(ledger) as other:
            waiting = asyncio.ensure_future(other.wait_granted(10))
            await until(lambda: is_in(first, State.UNLOADING))
            waiting.cancel()
        await asyncio.gather(first.use(), second.use())
        assert (triton.loads, triton.unloads) == (2, 1)
        lease = await our_lease(ledger)
        assert lease is not None
        assert lease.fence != fence


async def test_an_end_while_the_model_is_loaded(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """A frontend that ends while Triton loads waits no longer than its grace.

    It does not release the lease, because the memory is in use.
    """
    triton.load_s = 30
    frontend = StandInFrontend(triton, redis.url, close_s=1.0)
    async with frontend:
        using = asyncio.create_task(frontend.use())
        await until(lambda: is_in(frontend, State.LOADING))
        began_at_s = time.monotonic()
    assert time.monotonic() - began_at_s < 10  # its grace is 1 s, loading takes 30
    assert await our_lease(ledger) is not None
    assert triton.unloads == 0
    using.cancel()


async def test_looking_at_the_service_is_no_use(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Asking for the state of the model does not count as using it."""
    async with StandInFrontend(triton, redis.url, idle_release_s=1.0) as frontend:
        await frontend.use()
        ends_at_s = time.monotonic() + 20
        while triton.is_loaded:
            assert frontend.is_ready == (frontend.status().state is State.READY)
            assert await frontend.find_trouble() is None
            assert time.monotonic() < ends_at_s
            await asyncio.sleep(0.05)
        await until(lambda: is_in(frontend, State.UNLOADED))
    assert await our_lease(ledger) is None


async def test_frontends_of_two_sizes_claim_one(
    triton: StandInTriton, redis: RedisServer, ledger: Ledger
) -> None:
    """Frontends may claim different sizes, as while a setting is changed on one after the other.

    This conflicts neither with a lease nor with a place in the queue.
    """
    first = StandInFrontend(triton, redis.url, vram_mb=3000)
    second = StandInFrontend(triton, redis.url, vram_mb=2500)
    async with first, second, other_service(ledger, is_always_in_use=True) as other:
        await other.wait_granted(timeout_s=5)
        using = [asyncio.create_task(first.use())]
        await until(lambda: is_waiting(ledger))
        using.append(asyncio.create_task(second.use()))
        await asyncio.sleep(0.5)
        await other.release()
        await asyncio.gather(*using)
        lease = await our_lease(ledger)
        assert lease is not None
        assert (lease.vram_mb, len((await ledger.table(GPU)).leases)) == (3000, 1)
