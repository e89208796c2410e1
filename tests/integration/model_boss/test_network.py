"""Network trouble on the way to Redis: deadlines hold, nothing hangs, and work goes on after it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from model_boss import Claim, Ending, Granted, Lease, LedgerUnavailable, NotGranted
from model_boss.tenure import now_s
from tests.integration.model_boss.proxy import Proxy
from tests.integration.model_boss.test_ledger import GPU, claim, granted, opened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from model_boss import Ledger
    from tests.integration.model_boss.servers import RedisServer

TTL_S = 3.0
TIMEOUT_S = 0.5
LONG_TTL_S = 10.0  # of ten timeouts (seven by default): some may pass between two renewals
LONG_TIMEOUT_S = 1.0  # a busy machine answers within it
SLACK_S = 10.0  # for two loaded cores; a call that hangs hangs for ever

CALLS: dict[str, Callable[[Ledger, Claim], Awaitable[object]]] = {
    "reserve": lambda ledger, wanted: ledger.reserve(wanted),
    "renew": lambda ledger, wanted: ledger.renew(wanted, Granted(1)),
    "commit": lambda ledger, wanted: ledger.commit(wanted, Granted(1)),
    "hand_over": lambda ledger, wanted: ledger.hand_over(wanted, 1),
    "release": lambda ledger, wanted: ledger.release(wanted, 1),
    "cancel": lambda ledger, wanted: ledger.release(wanted),
    "table": lambda ledger, wanted: ledger.table(wanted.gpu),
    "gpus": lambda ledger, _: ledger.gpus(),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("trouble", ["drops", "delays", "refuses", "cut"])
async def test_no_call_hangs(server: RedisServer, name: str, trouble: str) -> None:
    """Whatever the network does, a call answers or raises an error by its deadline.

    Afterwards it works again.
    """
    is_silent = trouble in {"drops", "delays"}
    timeout_s = TIMEOUT_S if is_silent else 10  # else it is told at once
    async with Proxy(server.port) as proxy, opened(proxy.url, timeout_s=timeout_s, begun=False) as ledger:
        wanted = claim("a", 1)
        await _in_the_end(lambda: CALLS[name](ledger, wanted))
        began_at_s = time.monotonic()
        if trouble == "cut":
            proxy.cut()  # the connection in the pool is dead: one retry finds a new one
        else:
            proxy.drops, proxy.refuses = trouble == "drops", trouble == "refuses"
            proxy.delay_s = 300 if trouble == "delays" else 0
            if trouble == "refuses":
                proxy.cut()
            with pytest.raises(LedgerUnavailable):
                await CALLS[name](ledger, wanted)
        assert time.monotonic() - began_at_s < timeout_s + SLACK_S
        proxy.drops = proxy.refuses = False
        proxy.delay_s = 0
        if is_silent:
            await _in_the_end(lambda: CALLS[name](ledger, wanted))
        else:
            await CALLS[name](ledger, wanted)


async def test_a_grant_whose_answer_was_lost_is_answered_again(server: RedisServer) -> None:
    """Asking twice does not claim twice: the second answer is the same as the first."""
    async with (
        opened(server.url, ttl_s=TTL_S) as ledger,
        Proxy(server.port) as proxy,
        opened(proxy.url, ttl_s=TTL_S, begun=False) as troubled,
    ):
        await troubled.table(GPU)
        proxy.drops_answers = True
        with pytest.raises(LedgerUnavailable):
            await troubled.reserve(claim("a", 10))
        proxy.drops_answers = False
        row = (await ledger.table(GPU)).leases[0]
        assert await granted(troubled, claim("a", 10)) == row.fence
        assert (await ledger.table(GPU)).held_mb == 10


async def test_a_lease_survives_a_bad_line(server: RedisServer) -> None:
    """Cuts and delays shorter than the lease only cost heartbeats."""
    async with (
        opened(server.url, ttl_s=LONG_TTL_S) as ledger,
        Proxy(server.port) as proxy,
        opened(proxy.url, ttl_s=LONG_TTL_S, timeout_s=LONG_TIMEOUT_S, begun=False) as troubled,
        Lease(troubled, claim("a", 10)) as lease,
    ):
        fence = await lease.wait_granted(5)
        await lease.commit()
        for _ in range(2):
            proxy.cut()
            proxy.delay_s = 0.05
            await asyncio.sleep(LONG_TTL_S / 3)
            proxy.drops = True
            await asyncio.sleep(LONG_TTL_S / 6)
            proxy.drops, proxy.delay_s = False, 0
            await asyncio.sleep(LONG_TTL_S / 3)
        assert lease.fence == fence
        assert [row.fence for row in (await ledger.table(GPU)).leases] == [fence]


async def test_a_holder_on_a_dead_line_stops_before_the_next_is_granted(server: RedisServer) -> None:
    """If packets vanish without an error, the holder stops by its own clock.

    It stops before the ledger gives its memory away.
    """
    async with (
        opened(server.url, ttl_s=TTL_S) as ledger,
        Proxy(server.port) as proxy,
        opened(proxy.url, ttl_s=TTL_S, timeout_s=TIMEOUT_S, begun=False) as troubled,
    ):
        lease = Lease(
            troubled, claim("a", 18), clock=lambda: 2 * now_s()
        )  # fast, so that no load here hides it
        await lease.wait_granted(5)
        lost_at_s: list[float] = []

        async def note_loss() -> None:
            assert await lease.wait_ending() is Ending.LOST
            lost_at_s.append(time.monotonic())

        noting = asyncio.create_task(note_loss())
        proxy.drops = True
        async with Lease(ledger, claim("next", 18)) as following:
            await following.wait_granted(30)
            granted_at_s = time.monotonic()
        await noting
        assert lost_at_s[0] < granted_at_s
        await lease.release()


async def test_waiting_ends_at_its_deadline_on_a_dead_line(server: RedisServer) -> None:
    """Neither `wait_granted` nor `release` waits for an answer that never comes."""
    async with Proxy(server.port) as proxy:
        proxy.drops = True
        async with opened(proxy.url, ttl_s=TTL_S, timeout_s=TIMEOUT_S, begun=False) as troubled:
            began_at_s = time.monotonic()
            async with Lease(troubled, claim("a", 1)) as lease:
                with pytest.raises(NotGranted) as caught:
                    await lease.wait_granted(2)
                assert isinstance(caught.value.__cause__, LedgerUnavailable)
            assert time.monotonic() - began_at_s < 2 + 2 * TIMEOUT_S + SLACK_S


async def _in_the_end(call: Callable[[], Awaitable[object]]) -> None:
    """Repeat the call while it is late, since this machine may be slower than the deadline."""
    async with asyncio.timeout(30):
        while True:
            with suppress(LedgerUnavailable):
                await call()
                return
