"""The service on a shared GPU when something dies: Redis, Triton, a frontend or the network."""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from model_boss import Phase
from reward.contract import NETWORK
from tests.integration.gpu.shared_gpu import CAPACITY, GPU, TTL_S, SharedGpu
from tests.integration.model_boss.proxy import Proxy
from tests.integration.servers import PICTURE, Frontend, until
from tests.repository import copy_published

if TYPE_CHECKING:
    from pathlib import Path


async def test_redis_restarts_with_empty_memory(shared: SharedGpu) -> None:
    """After Redis has restarted empty, the lease is admitted again under its old fence.

    No request fails, and nobody else is granted meanwhile.
    """
    frontend = await shared.start_frontend()
    assert (await frontend.score()).status_code == 200
    fence = (await frontend.gpu())["fence"]
    shared.redis.kill()
    shared.redis.start()
    async with shared.other_service(priority=500) as other:
        waiting = asyncio.create_task(other.wait_granted(timeout_s=60))
        ends_at_s = time.monotonic() + 1.5 * TTL_S  # past the grace of the new ledger
        while time.monotonic() < ends_at_s:
            assert (await frontend.score()).status_code == 200
            assert sum(row.vram_mb for row in (await shared.table()).leases) <= CAPACITY.total_mb
            await asyncio.sleep(0.1)
        gpu = await frontend.gpu()
        assert (gpu["fence"], gpu["state"], gpu["ledger"]) == (fence, "ready", "ok")
        waiting.cancel()


async def test_redis_stays_away_and_the_service_stops(shared: SharedGpu) -> None:
    """With fail_closed, the model is served until the lease ends by the holder's own clock.

    Then it is unloaded, and requests get 503 until Redis is back.
    """
    frontend = await shared.start_frontend(gpu_wait_s=1.0)
    await until(lambda: _is_scored(frontend))  # a busy machine loads for longer than that
    shared.redis.kill()
    assert (await frontend.score()).status_code == 200  # the lease still lasts
    await until(lambda: _is_not_loaded(shared))
    answer = await frontend.score()
    assert (answer.status_code, answer.json()["code"]) == (503, "gpu_unavailable")
    assert answer.json()["detail"] == "the GPU's ledger cannot be reached"
    health = await frontend.health(503)
    assert health.json()["parts"]["gpu"] == {
        "status": "failing",
        "detail": "the GPU's ledger cannot be reached",
    }
    await until(lambda: _has_lost(frontend))
    shared.redis.start()
    await shared.ledger.set_capacity(GPU, CAPACITY)
    await until(lambda: _is_scored(frontend))
    await frontend.health(200)


async def test_redis_stays_away_and_the_service_goes_on(shared: SharedGpu) -> None:
    """With fail_open, the service goes on without a lease and says so.

    When Redis is back, it gets a lease again.
    """
    frontend = await shared.start_frontend(gpu_on_outage="fail_open")
    assert (await frontend.score()).status_code == 200
    shared.redis.kill()
    await until(lambda: _is_unprotected(frontend))
    assert (await frontend.score()).status_code == 200
    assert await frontend.metric("aesthetic_gpu_unprotected") == 1
    health = await frontend.health(200)
    assert "without a lease (fail_open)" in health.json()["parts"]["gpu"]["detail"]
    shared.redis.start()
    await shared.ledger.set_capacity(GPU, CAPACITY)
    await until(lambda: _is_protected(frontend))
    assert await shared.our_lease() is not None
    assert (await frontend.score()).status_code == 200


async def test_no_request_hangs_whatever_the_network_does(shared: SharedGpu) -> None:
    """Every request is answered by its deadline, whatever the network to Redis does.

    The network drops, delays, refuses and cuts.
    """
    async with Proxy(shared.redis.port) as proxy:
        frontend = await shared.start_frontend(redis_url=proxy.url, gpu_wait_s=1.0, idle_release_s=0.5)
        for trouble in ("drops", "drops_answers", "refuses", "delays", "cuts"):
            proxy.drops, proxy.drops_answers = trouble == "drops", trouble == "drops_answers"
            proxy.refuses, proxy.delay_s = trouble == "refuses", 1.0 if trouble == "delays" else 0.0
            proxy.cut()
            for _ in range(2):
                answer = await asyncio.wait_for(
                    frontend.client.post(
                        "/score",
                        json={"prompt": "a red square", "image_base64": PICTURE},
                        headers={"X-Request-Timeout-Ms": "3000"},
                    ),
                    timeout=10,  # its deadline, and much for two busy cores
                )
                assert answer.status_code in {200, 503, 504}, answer.text
                await asyncio.wait_for(frontend.client.get("/health/ready"), timeout=10)
                await asyncio.wait_for(frontend.client.get("/info"), timeout=10)
        proxy.drops = proxy.drops_answers = proxy.refuses = False
        proxy.delay_s = 0
        proxy.cut()
        await until(lambda: _is_scored(frontend))


async def test_triton_is_started_again_under_the_lease(shared: SharedGpu) -> None:
    """A restarted Triton comes back without the model, so the lease is given back.

    The next request claims it anew.
    """
    frontends = [await shared.start_frontend(), await shared.start_frontend()]
    for frontend in frontends:
        assert (await frontend.score()).status_code == 200
    fence = (await frontends[0].gpu())["fence"]
    shared.kill_triton()
    assert (await frontends[0].score()).json()["code"] == "model_unavailable"
    await shared.start_triton()
    for frontend in frontends:
        await until(partial(_is_scored, frontend))
    lease = await shared.our_lease()
    assert lease is not None
    assert lease.fence > fence
    for frontend in frontends:
        await until(partial(_knows_fence, frontend, lease.fence))
    assert len((await shared.table()).leases) == 1


async def test_a_crashed_frontend_leaves_the_model_to_the_other(shared: SharedGpu) -> None:
    """After a crash the other frontend follows under a new fence.

    It gives the memory up when it is asked for.
    """
    first, second = await shared.start_frontend(), await shared.start_frontend()
    for frontend in (first, second):
        assert (await frontend.score()).status_code == 200
    before = await shared.our_lease()
    assert before is not None
    first.stop(signal.SIGKILL)
    await until(partial(_is_followed, shared, before.fence))
    assert (await second.score()).status_code == 200
    assert await second.metric("aesthetic_gpu_load_seconds_count") == 0
    async with shared.other_service() as other:
        await other.wait_granted(timeout_s=30)
        assert not await shared.is_loaded()


async def test_a_model_that_was_left_behind_is_taken_over(shared: SharedGpu) -> None:
    """After the crash of a model's only frontend, the next frontend leases its memory at once.

    This needs no request.
    """
    first = await shared.start_frontend()
    assert (await first.score()).status_code == 200
    first.stop(signal.SIGKILL)
    second = await shared.start_frontend()
    await until(lambda: _keeps(second, shared))
    assert await shared.is_loaded()


async def test_a_model_without_a_lease_is_unloaded(shared: SharedGpu) -> None:
    """A model whose lease expired, and whose memory is another's by now, is unloaded.

    The next frontend does so.
    """
    first = await shared.start_frontend()
    assert (await first.score()).status_code == 200
    first.stop(signal.SIGKILL)
    async with shared.other_service() as other:
        await other.wait_granted(timeout_s=30)
        await other.commit()
        assert await shared.is_loaded()  # no frontend is there to know
        second = await shared.start_frontend()
        await until(lambda: _is_not_loaded(shared))
    assert (await second.score()).status_code == 200


async def test_a_model_that_cannot_be_loaded(
    shared: SharedGpu, published_repository: Path, tmp_path: Path
) -> None:
    """If the model cannot be loaded, the answer is 503 model_unavailable without a traceback.

    The memory is given back. After a repair the model is loaded.
    """
    broken = tmp_path / "broken"
    copy_published(published_repository, broken)
    code = broken / NETWORK.name / "1" / "model.py"
    whole = code.read_text()
    await shared.serve_another(broken)
    code.write_text(whole + "\nraise RuntimeError('broken on purpose')\n")
    frontend = await shared.start_frontend(model_repository=broken)
    answer = await frontend.score()
    assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
    assert "on purpose" not in answer.text
    assert "on purpose" in frontend.log.read_text()
    await until(lambda: _has_no_lease(shared))
    code.write_text(whole)
    await until(lambda: _is_scored(frontend))


async def test_a_claim_that_can_never_be_granted(shared: SharedGpu) -> None:
    """A claim that can never be granted is refused at once.

    `/health` says what is wrong, even before any request.
    """
    frontend = await shared.start_frontend(vram_mb=100_000)
    health = await frontend.health(503)
    assert "100000 MiB" in health.json()["parts"]["gpu"]["detail"]
    answer = await frontend.score()
    assert (answer.status_code, answer.json()["code"]) == (503, "gpu_unavailable")
    assert answer.json()["detail"] == "the GPU's ledger refuses this service"


async def test_tritons_administration_is_shut(shared: SharedGpu) -> None:
    """With a wrong key nothing can be loaded, and `/health` says so before any request."""
    frontend = await shared.start_frontend(triton_admin_key="wrong")
    health = await frontend.health(503)
    assert health.json()["parts"]["gpu"]["detail"] == "the inference server refuses to be administered"
    answer = await frontend.score()
    assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
    assert "expecting header" in frontend.log.read_text()


async def _is_scored(frontend: Frontend) -> bool:
    return (await frontend.score()).status_code == 200


async def _knows_fence(frontend: Frontend, fence: int) -> bool:
    return bool((await frontend.gpu())["fence"] == fence)


async def _is_followed(shared: SharedGpu, fence: int) -> bool:
    lease = await shared.our_lease()
    assert lease is not None
    return lease.fence > fence


async def _is_not_loaded(shared: SharedGpu) -> bool:
    return not await shared.is_loaded()


async def _has_lost(frontend: Frontend) -> bool:
    return await frontend.metric('aesthetic_gpu_endings_total{reason="lost"}') == 1


async def _keeps(frontend: Frontend, shared: SharedGpu) -> bool:
    lease, gpu = await shared.our_lease(), await frontend.gpu()
    own = ("ready", lease and lease.fence, Phase.ACTIVE)
    return lease is not None and (gpu["state"], gpu["fence"], lease.phase) == own


async def _is_unprotected(frontend: Frontend) -> bool:
    return bool((await frontend.gpu())["unprotected"])


async def _is_protected(frontend: Frontend) -> bool:
    gpu = await frontend.gpu()
    return not gpu["unprotected"] and gpu["ledger"] == "ok" and gpu["fence"] is not None


async def _has_state(frontend: Frontend, state: str) -> bool:
    return bool((await frontend.gpu())["state"] == state)


async def _has_no_lease(shared: SharedGpu) -> bool:
    lease = await shared.our_lease()
    return lease is None or lease.phase is Phase.WAITING
