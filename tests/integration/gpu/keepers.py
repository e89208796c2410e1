"""Questions that tests of keepers ask the ledger, Triton and the keepers themselves."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from frontend.triton.state import ModelState
from model_boss import Claim, Lease, Ledger
from model_boss.protocol import Keys
from tests.integration.gpu.shared_gpu import CAPACITY, GPU
from tests.integration.gpu.stand_in_triton import SERVER_ID, StandInFrontend, StandInTriton

if TYPE_CHECKING:
    import pytest

    from frontend.gpu.keeper import State
    from model_boss import Row, Standing
    from tests.integration.model_boss.servers import RedisServer


async def is_told(caplog: pytest.LogCaptureFixture) -> bool:
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert not [record for record in told if record.exc_info is None]
    return bool(told)


async def watch_lease(ledger: Ledger) -> None:
    """Watch without end; fail as soon as nobody holds the lease."""
    while True:
        assert await our_lease(ledger) is not None
        await asyncio.sleep(0.01)


async def begin(ledger: Ledger, redis: RedisServer) -> None:
    await ledger.set_capacity(GPU, CAPACITY)
    claim = Claim(GPU, "first", "first", "first", 1)
    await ledger.reserve(claim)
    await ledger.release(claim)
    with redis.client() as client:
        client.hset(Keys.of("model-boss", GPU).epoch, "grace_until_ms", 1)


def other_service(
    ledger: Ledger, *, priority: int = 900, vram_mb: int = 3000, is_always_in_use: bool = False
) -> Lease:
    """Another service that claims so much memory that the two do not fit together.

    If it is in use, it is as urgent as ours.
    """
    claim = Claim(GPU, "diffusion-1", "diffusion", "sdxl", vram_mb, 500 if is_always_in_use else priority)
    return Lease(ledger, claim, is_always_in_use=is_always_in_use)


async def our_lease(ledger: Ledger) -> Row | None:
    leases = (await ledger.table(GPU)).leases
    return next((row for row in leases if row.lease_id == SERVER_ID), None)


async def is_free(ledger: Ledger) -> bool:
    return await our_lease(ledger) is None


async def is_known(ledger: Ledger) -> bool:
    return not await is_free(ledger)


async def is_waiting(ledger: Ledger) -> bool:
    return any(row.lease_id == SERVER_ID for row in (await ledger.table(GPU)).waiters)


async def stands(frontend: StandInFrontend, standing: Standing) -> bool:
    return frontend._tenure.standing is standing


async def knows_of_others(frontend: StandInFrontend) -> bool:
    lease = frontend._tenure.lease
    return lease is not None and lease.others_stand_by


async def is_away(frontend: StandInFrontend) -> bool:
    return frontend.status().outage is not None


async def has_trouble(frontend: StandInFrontend) -> bool:
    return await frontend.find_trouble() is not None or frontend._driver.trouble is not None


async def is_in(frontend: StandInFrontend, state: State) -> bool:
    return frontend.state is state


async def is_vacant(triton: StandInTriton) -> bool:
    return triton.state is ModelState.ABSENT
