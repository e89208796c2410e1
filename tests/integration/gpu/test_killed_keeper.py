"""The keeper is killed under load, again and again, beside a second frontend."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.gpu.shared_gpu import TTL_S, SharedGpu
from tests.integration.servers import Frontend, until

if TYPE_CHECKING:
    from model_boss import Row


async def test_no_request_of_the_other_fails_when_the_keeper_is_killed(shared: SharedGpu) -> None:
    """When the keeper is killed, the other frontend follows under a new fence.

    No request of it fails. The model stays loaded, and its memory is leased again in time.
    """
    await _kill_keepers(shared, times=2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_fifty_keepers_are_killed_and_no_request_of_the_other_fails(shared: SharedGpu) -> None:
    """Fifty times another frontend takes the killed keeper's place.

    The memory is never without a lease for a whole time to live.
    """
    await _kill_keepers(shared, times=50)


async def _kill_keepers(shared: SharedGpu, times: int) -> None:
    frontends = [await shared.start_frontend(), await shared.start_frontend()]
    watching = asyncio.create_task(_watch_memory(shared))
    load = {frontend: asyncio.create_task(_ask(frontend)) for frontend in frontends}
    await until(shared.is_loaded)
    for _ in range(times):
        for frontend in frontends:
            await until(partial(_serves, frontend))
        lease = await _lease(shared)
        keeper = next(frontend for frontend in frontends if f":{frontend.pid}:" in lease.holder)
        frontends.remove(keeper)
        keeper.stop(signal.SIGKILL)
        with suppress(httpx.TransportError):
            await load.pop(keeper)
        await until(partial(_is_followed, shared, lease.fence))
        assert not load[frontends[0]].done(), load[frontends[0]].result()
        frontends.append(await shared.start_frontend())
        load[frontends[-1]] = asyncio.create_task(_ask(frontends[-1]))
    for task in (watching, *load.values()):
        assert not task.done(), task.result()
        task.cancel()
    loads = [await frontend.metric("aesthetic_gpu_load_seconds_count") for frontend in frontends]
    assert loads == [0, 0]  # what the first of all keepers has loaded served to the end


async def _ask(frontend: Frontend) -> None:
    """Be two callers that never pause; fail at the first answer that is no score."""

    async def keep_asking() -> None:
        while True:
            answer = await frontend.score()
            assert answer.status_code == 200, answer.text

    await asyncio.gather(keep_asking(), keep_asking())


async def _watch_memory(shared: SharedGpu) -> None:
    """Fail once the model has been loaded without a lease for a whole time to live."""
    leased_at_s = time.monotonic()
    while True:
        if await shared.our_lease() is not None or not await shared.is_loaded():
            leased_at_s = time.monotonic()
        assert time.monotonic() - leased_at_s <= TTL_S
        await asyncio.sleep(0.1)


async def _lease(shared: SharedGpu) -> Row:
    await until(partial(_has_lease, shared))
    lease = await shared.our_lease()
    assert lease is not None
    return lease


async def _has_lease(shared: SharedGpu) -> bool:
    return await shared.our_lease() is not None


async def _is_followed(shared: SharedGpu, fence: int) -> bool:
    lease = await shared.our_lease()
    return lease is not None and lease.fence > fence


async def _serves(frontend: Frontend) -> bool:
    gpu = await frontend.gpu()
    return gpu["state"] == "ready" and gpu["fence"] is not None
