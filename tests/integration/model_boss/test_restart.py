"""Redis is killed and comes back with empty memory.

Invariants 5 and 6 hold, in real processes and real time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from model_boss import (
    Ending,
    Lease,
    LeaseLost,
    NotGranted,
    Phase,
    Standing,
    Waiting,
    WaitReason,
)
from model_boss.tenure import now_s
from tests.integration.model_boss.test_ledger import GPU, claim, opened
from tests.integration.model_boss.until import until

if TYPE_CHECKING:
    from tests.integration.model_boss.servers import RedisServer

TTL_S = 3.0


async def test_a_former_holder_is_admitted_again(own_server: RedisServer) -> None:
    """A holder's heartbeat brings back its lease, under the same fence, and the capacity.

    Newcomers wait for one grace.
    """
    async with (
        opened(own_server.url, ttl_s=TTL_S) as ledger,
        Lease(ledger, claim("old", 10)) as old,
    ):
        fence = await old.wait_granted(5)
        await old.commit(used_mb=8)
        own_server.kill()
        killed_at_s = time.monotonic()
        own_server.start()
        answer = await ledger.reserve(claim("new", 10))
        assert answer == Waiting(0, WaitReason.GRACE)
        async with Lease(ledger, claim("small", 8, priority=9)) as small:
            new_fence = await small.wait_granted(10)
        assert time.monotonic() - killed_at_s >= TTL_S
        assert new_fence > fence
        table = await ledger.table(GPU)
        assert [(row.lease_id, row.fence, row.phase) for row in table.leases] == [
            ("old", fence, Phase.ACTIVE)
        ]
        assert (table.total_mb, table.margin_mb) == (20, 2)
        assert old.fence == fence
        assert not old.lost.is_set()


async def test_a_commit_that_meets_an_empty_ledger_comes_back_first(own_server: RedisServer) -> None:
    """A restart of Redis while a model is being loaded does not make the model unload."""
    async with (
        opened(own_server.url, ttl_s=TTL_S) as ledger,
        Lease(ledger, claim("a", 10)) as lease,
    ):
        fence = await lease.wait_granted(5)
        own_server.kill()
        own_server.start()
        await lease.commit()
        assert (lease.fence, lease.standing) == (fence, Standing.COMMITTED)
        assert (await ledger.table(GPU)).leases[0].phase is Phase.ACTIVE


async def test_a_holder_outlives_a_short_outage(own_server: RedisServer) -> None:
    """While its lease lasts a holder goes on, and says that the ledger is away.

    When the ledger is back, it carries on.
    """
    async with (
        opened(own_server.url, ttl_s=TTL_S) as ledger,
        Lease(ledger, claim("a", 10)) as lease,
    ):
        await lease.wait_granted(5)
        own_server.kill()
        await lease.commit()  # told later
        await until(lambda: lease.outage is not None)
        assert lease.is_held
        own_server.start()
        await until(lambda: lease.outage is None and lease.standing is Standing.COMMITTED)
        assert lease.is_held


async def test_fail_closed_stops_before_the_ledger_would_give_the_memory_away(
    own_server: RedisServer,
) -> None:
    """With Redis gone, the holder is told `lost` by its own clock, less the safety margin."""
    async with opened(own_server.url, ttl_s=TTL_S) as ledger:
        lease = Lease(ledger, claim("a", 10), clock=lambda: 2 * now_s())
        await lease.wait_granted(5)
        own_server.kill()
        died_at_s = time.monotonic()
        assert await asyncio.wait_for(lease.wait_ending(), 20) is Ending.LOST
        # Its last renewal was before the death of Redis, so it stops well before a whole time to
        # live after that.
        assert time.monotonic() - died_at_s < TTL_S - 0.2
        assert (lease.fence, lease.is_held) == (None, False)
        with pytest.raises(LeaseLost):
            await lease.commit()
        await lease.release()


async def test_fail_open_goes_on_and_enters_the_ledger_again(own_server: RedisServer) -> None:
    """With fail_open the holder goes on unprotected while Redis is gone.

    Afterwards it has a lease again, with a new fence. This is for a GPU of one's own.
    """
    async with (
        opened(own_server.url, ttl_s=TTL_S) as ledger,
        Lease(ledger, claim("a", 10), fail_open=True) as lease,
    ):
        fence = await lease.wait_granted(5)
        await lease.commit()
        own_server.kill()
        await until(lambda: lease.standing is Standing.UNPROTECTED)
        assert lease.is_held
        await asyncio.sleep(TTL_S)
        assert not lease.lost.is_set()
        own_server.start()
        async with opened(
            own_server.url, ttl_s=TTL_S, waits_grace=True
        ):  # others begin the epoch, and its grace passes
            await until(lambda: lease.standing is not Standing.UNPROTECTED)
        assert lease.is_held
        assert lease.fence is not None
        assert lease.fence >= fence
        await until(lambda: lease.standing is Standing.COMMITTED)
        assert [row.lease_id for row in (await ledger.table(GPU)).leases] == ["a"]


async def test_who_waits_when_redis_dies_waits_on(own_server: RedisServer) -> None:
    """A waiter goes on waiting while Redis is gone, and is granted once Redis is back.

    If its deadline comes first, the error names the outage as its cause.
    """
    async with (
        opened(own_server.url, ttl_s=TTL_S) as ledger,
        Lease(ledger, claim("old", 18)) as old,
    ):
        await old.wait_granted(5)
        async with Lease(ledger, claim("a", 18)) as lease:
            with pytest.raises(NotGranted):
                await lease.wait_granted(0.2)
            own_server.kill()
            await until(lambda: lease.outage is not None and old.outage is not None)
            with pytest.raises(NotGranted) as caught:
                await lease.wait_granted(0.5)
            assert str(caught.value.__cause__) == lease.outage
            own_server.start()
            await until(lambda: lease.outage is None and old.outage is None)
            await old.release()
            await lease.wait_granted(10)
