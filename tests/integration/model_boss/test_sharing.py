"""Several holders of one lease: who is at work, who leaves, and who unloads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from model_boss import (
    Answer,
    Claim,
    Ending,
    InvalidClaim,
    Lease,
    LeaseLost,
    LeaseOptions,
    Ledger,
    LedgerUnavailable,
    NotGranted,
    OnOutage,
    Phase,
    Shared,
)
from model_boss.connection import Connection
from tests.integration.model_boss.proxy import Proxy
from tests.integration.model_boss.test_ledger import GPU, claim, granted, opened
from tests.integration.model_boss.until import until

if TYPE_CHECKING:
    from tests.integration.model_boss.servers import RedisServer

TTL_S = 3.0
SLACK_S = 2.5  # for two loaded cores: less than another time to live
SHARED = claim("shared", 10)


class HardOfHearing(Ledger):
    """A ledger that knows nothing of sharers while `is_deaf`; counts what it was told."""

    is_deaf = False
    told = 0

    async def share(self, claim: Claim, fence: int, sharer: str, *, is_here: bool) -> Shared:
        if self.is_deaf:
            raise LedgerUnavailable("deaf")
        self.told += 1
        return await super().share(claim, fence, sharer, is_here=is_here)


def sharing(ledger: Ledger, sharer: str | None, on_outage: OnOutage = OnOutage.FAIL_CLOSED) -> Lease:
    return Lease(ledger, SHARED, LeaseOptions(poll_s=0.02, sharer=sharer, on_outage=on_outage))


async def test_the_last_of_two_to_leave_ends_the_lease(server: RedisServer) -> None:
    """The first hears of another and detaches; the second of none and unloads; a third hears of the second."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        one, two, three = (sharing(ledger, name) for name in ("one", "two", "three"))
        await one.wait_granted(5)
        await one.commit()
        assert one.others == 0
        await two.wait_granted(5)
        assert two.others == 1
        await until(lambda: one.others == 1)  # by its heartbeat

        assert await one.leave() == 1
        assert not one.yield_asked.is_set()
        await one.detach()
        after: tuple[object, ...] = (one.fence, one.phase, one.others, one.is_held)
        assert after == (None, None, None, False)
        await one.release()  # nothing any more
        await until(lambda: two.others == 0)
        await asyncio.sleep(1.2 * TTL_S)
        assert not two.yield_asked.is_set()

        assert await two.leave() == 0
        assert two.phase is Phase.YIELDING
        await two.yield_asked.wait()
        await asyncio.sleep(1.2 * TTL_S)  # it unloads
        fence = await three.wait_granted(5)
        assert three.yield_asked.is_set()
        assert three.others == 1
        assert await three.leave() == 1
        await three.detach()
        assert two.fence == fence
        await two.release()
        assert (await ledger.table(GPU)).held_mb == 0


async def test_who_left_may_wait_for_the_others(server: RedisServer) -> None:
    """It renews the lease and counts no more; the other alone is told 0, and its release is a loss to who waits."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        one, two = sharing(ledger, "one"), sharing(ledger, "two")
        await asyncio.gather(one.wait_granted(5), two.wait_granted(5))
        await ledger.ask_to_yield(GPU, "shared")
        assert await one.leave() == 1
        assert one.yield_asked.is_set()
        assert await two.leave() == 0
        began_at_s = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began_at_s + 1.2 * TTL_S:  # the other unloads
            assert await one.leave() == 1
            await asyncio.sleep(0.02)
        assert await two.leave() == 0
        assert one.is_held
        await two.release()
        with pytest.raises(LeaseLost):
            await one.leave()


async def test_another_takes_over_from_who_crashed_while_it_unloaded(server: RedisServer) -> None:
    """Within one time to live one of those who wait, or somebody new, is told 0, and only that one."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        one, two, new = (sharing(ledger, name) for name in ("one", "two", "new"))
        await asyncio.gather(one.wait_granted(5), two.wait_granted(5))
        assert await one.leave() == 1
        assert await two.leave() == 0
        await two.detach()  # as by a crash: nothing is said any more
        began_at_s = asyncio.get_running_loop().time()
        await new.wait_granted(5)
        assert await new.leave() == 1
        while await new.leave():  # noqa: ASYNC110 - only the ledger knows
            await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - began_at_s < TTL_S + SLACK_S
        assert await one.leave() == 1
        await new.release()
        await one.lost.wait()


async def test_a_sharer_that_crashed_is_forgotten(server: RedisServer) -> None:
    """Within one time to live the others wait for it no longer."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        fence = await granted(ledger, SHARED)
        await ledger.share(SHARED, fence, "crashed", is_here=True)
        async with sharing(ledger, "one") as one:
            await one.wait_granted(5)
            assert await one.leave() == 1
            began_at_s = asyncio.get_running_loop().time()
            while await one.leave():  # noqa: ASYNC110 - only the ledger knows
                await asyncio.sleep(0.02)
            assert asyncio.get_running_loop().time() - began_at_s < TTL_S + SLACK_S
            assert one.is_held


async def test_the_grant_is_told_only_to_who_is_counted(server: RedisServer) -> None:
    """Else another could leave as the last, while this one begins to work."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        deaf = HardOfHearing(Connection(server.url, 2), ledger.options)
        deaf.is_deaf = True
        async with deaf, sharing(deaf, "one") as one:
            with pytest.raises(NotGranted) as caught:
                await one.wait_granted(TTL_S / 3)
            assert isinstance(caught.value.__cause__, LedgerUnavailable)
            heard = [one.others]
            deaf.is_deaf = False
            await one.wait_granted(5)
            heard.append(one.others)
            assert heard == [None, 0]


async def test_who_cannot_be_counted_goes_on_where_it_may_go_on_without_a_lease(
    own_server: RedisServer,
) -> None:
    """With `fail_open` the grant is told once the lease is over by the holder's own clock."""
    async with opened(own_server.url, ttl_s=TTL_S) as ledger:
        deaf = HardOfHearing(Connection(own_server.url, 2), ledger.options)
        deaf.is_deaf = True
        async with deaf, sharing(deaf, "one", OnOutage.FAIL_OPEN) as one:
            with pytest.raises(NotGranted):
                await one.wait_granted(0.1)
            own_server.kill()
            await one.wait_granted(30)
            assert one.is_unprotected
            assert one.others is None


async def test_after_leaving_heartbeats_say_nothing_of_this_sharer(server: RedisServer) -> None:
    """Else it would come back, or be told to unload by an answer that nobody looks at."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        counting = HardOfHearing(Connection(server.url, 2), ledger.options)
        async with counting, sharing(counting, "one") as one:
            fence = await one.wait_granted(5)
            await ledger.share(SHARED, fence, "crashed", is_here=True)
            assert await one.leave() == 1
            before = counting.told
            await asyncio.sleep(1.2 * TTL_S)
            assert counting.told == before
            assert one.is_held
            assert await one.leave() == 0


async def test_while_it_unloads_heartbeats_keep_its_place(server: RedisServer) -> None:
    """Else another would be told 0 as well. One that could not say that it leaves is still at work."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        counting = HardOfHearing(Connection(server.url, 2), ledger.options)
        async with counting, sharing(counting, "one") as one:
            fence = await one.wait_granted(5)
            counting.is_deaf = True
            with pytest.raises(LedgerUnavailable):
                await one.leave()
            counting.is_deaf = False
            await asyncio.sleep(1.2 * TTL_S)
            assert (await ledger.share(SHARED, fence, "two", is_here=True)).others == 1
            assert (await ledger.share(SHARED, fence, "two", is_here=False)).others == 1
            assert await one.leave() == 0
            before = counting.told
            await asyncio.sleep(1.2 * TTL_S)
            assert counting.told > before
            assert (await ledger.share(SHARED, fence, "new", is_here=False)).others == 1


async def test_who_has_no_name_shares_as_before(server: RedisServer) -> None:
    """Without a sharer nothing is told of others, and none can leave; it can detach."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        lease = sharing(ledger, None)
        await lease.wait_granted(5)
        assert lease.others is None
        with pytest.raises(InvalidClaim, match="no sharer"):
            await lease.leave()
        await lease.detach()
        assert (await ledger.table(GPU)).held_mb == 10


async def test_who_detaches_while_it_waits_keeps_the_place_for_the_others(server: RedisServer) -> None:
    """Its ticket may be another's too; nobody's, it ends after a time to live. Who releases gives the place up."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        await granted(ledger, claim("first", 18))
        lease = sharing(ledger, "one")
        with pytest.raises(NotGranted):
            await lease.wait_granted(0.1)
        with pytest.raises(LeaseLost):
            await lease.leave()
        await lease.detach()
        assert [row.lease_id for row in (await ledger.table(GPU)).waiters] == ["shared"]
        await asyncio.sleep(TTL_S + 0.2)
        assert (await ledger.table(GPU)).waiters == ()


async def test_leaving_a_lease_that_is_gone_says_so(server: RedisServer) -> None:
    """The release by another is a loss: there is nothing left to leave."""
    async with opened(server.url, ttl_s=TTL_S) as ledger:
        one = sharing(ledger, "one")
        fence = await one.wait_granted(5)
        assert await ledger.release(SHARED, fence) is Answer.OK
        with pytest.raises(LeaseLost):
            await one.leave()
        assert one.lost.is_set()
        assert await one.wait_ending() is Ending.LOST
        await one.detach()


async def test_leaving_without_redis_is_no_leaving_yet(own_server: RedisServer) -> None:
    """Nobody knows of the others: call again. The lease that Redis forgot is brought back first."""
    async with opened(own_server.url, ttl_s=TTL_S) as ledger:
        one = sharing(ledger, "one")
        fence = await one.wait_granted(5)
        own_server.kill()
        with pytest.raises(LedgerUnavailable):
            await one.leave()
        own_server.start()
        assert await one.leave() == 0
        assert one.fence == fence
        assert one.phase is Phase.YIELDING
        await one.release()


async def test_without_a_lease_nobody_knows_of_others(own_server: RedisServer) -> None:
    """With `fail_open` a ledger that has forgotten the lease ends nothing; back in it, sharers are counted again."""
    async with opened(own_server.url, ttl_s=TTL_S) as ledger:
        one = sharing(ledger, "one", OnOutage.FAIL_OPEN)
        two = sharing(ledger, "two", OnOutage.FAIL_OPEN)
        await asyncio.gather(one.wait_granted(5), two.wait_granted(5))
        own_server.kill()
        await until(lambda: one.is_unprotected and two.is_unprotected)
        assert one.others is None
        own_server.start()
        async with opened(
            own_server.url, ttl_s=TTL_S, waits_grace=True
        ):  # the grace of another ledger passes
            await until(lambda: not one.is_unprotected and one.others == 1)
            await until(lambda: not two.is_unprotected and two.others == 1)
        assert await one.leave() == 1
        await one.detach()
        assert await two.leave() == 0
        await two.release()


async def test_who_goes_on_without_a_lease_is_not_stopped_by_leaving(server: RedisServer) -> None:
    """The ledger has given the memory to another: with `fail_open` that is no loss, and nobody is known."""
    async with (
        opened(server.url, ttl_s=TTL_S) as ledger,
        Proxy(server.port) as proxy,
        opened(proxy.url, ttl_s=TTL_S, begun=False) as troubled,
        Lease(ledger, claim("other", 18), LeaseOptions(poll_s=0.02)) as other,
        sharing(troubled, "one", OnOutage.FAIL_OPEN) as one,
    ):
        await one.wait_granted(5)
        proxy.drops = True
        await other.wait_granted(30)
        assert one.is_unprotected
        proxy.drops = False
        proxy.cut()
        await until(lambda: one.outage is None)
        assert await one.leave() == 0
        assert one.is_held
        assert not one.lost.is_set()
