"""The life of the model on a shared GPU.

The first request loads it. It goes when nobody uses it, or when somebody asks for the memory.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tritonclient.http.aio import InferenceServerClient, InferInput

from model_boss import Phase
from reward.contract import NETWORK
from reward.tokenizer import tokenise
from tests.integration.gpu.shared_gpu import CLAIMED_MB, TTL_S, SharedGpu
from tests.integration.gpu.stalling_server import stalling_server
from tests.integration.servers import PICTURE, Frontend, until
from tests.repository import copy_published

if TYPE_CHECKING:
    from pathlib import Path

    import httpx


async def test_two_frontends_share_one_lease(shared: SharedGpu) -> None:
    """The first request loads the model; the other frontend uses it and does not load it again."""
    first, second = await shared.start_frontend(), await shared.start_frontend()
    before = (await first.client.get("/info")).json()
    assert before["gpu_coordination"] == "model-boss"
    assert (before["gpu"]["state"], before["gpu"]["fence"], before["device"]) == ("unloaded", None, None)
    health = await first.health(200)
    assert health.json()["parts"]["gpu"]["detail"] == "unloaded; a request has it loaded"
    assert not await shared.is_loaded()

    assert (await first.score()).status_code == 200
    await until(partial(_has_active_lease, shared))  # committed a moment after the model is ready
    lease = await shared.our_lease()
    assert lease is not None
    assert lease.vram_mb == CLAIMED_MB
    assert (await second.score()).status_code == 200
    await until(partial(_knows_fence, second, lease.fence))
    gpus = [await first.gpu(), await second.gpu()]
    assert [gpu["fence"] for gpu in gpus] == [lease.fence, lease.fence]
    assert [gpu["keeper"] for gpu in gpus] == [lease.holder, lease.holder]
    assert [gpu["state"] for gpu in gpus] == ["ready", "ready"]
    detail = (await second.client.get("/health")).json()["parts"]["gpu"]["detail"]
    assert f"fence {lease.fence}, kept by {lease.holder}" in detail
    assert len((await shared.table()).leases) == 1
    assert await first.metric("aesthetic_gpu_load_seconds_count") == 1
    assert await second.metric("aesthetic_gpu_load_seconds_count") == 0
    assert await second.metric('aesthetic_gpu_state{state="ready"}') == 1
    held = [await frontend.metric("aesthetic_gpu_lease_held") for frontend in (first, second)]
    assert held == [1, 0]


async def test_the_first_requests_of_two_frontends_at_once(shared: SharedGpu) -> None:
    """If both frontends find the model unloaded at once, there is one lease.

    Every request is answered.
    """
    frontends = [await shared.start_frontend(), await shared.start_frontend()]
    answers = await asyncio.gather(*(frontend.score() for frontend in frontends for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert len((await shared.table()).leases) == 1


async def test_a_more_urgent_claim_gets_the_memory_and_nothing_fails(shared: SharedGpu) -> None:
    """When a more urgent claim asks for the memory, the keeper unloads the model.

    Requests that had not reached Triton wait, and all of them are answered.
    """
    async with stalling_server() as server:
        frontends = [await shared.start_frontend(fetch_allow=server.address) for _ in "ab"]
        for frontend in frontends:
            assert (await frontend.score()).status_code == 200
        # These requests are admitted, but wait for their picture when the memory is asked for.
        slow = [asyncio.create_task(frontend.score(image_url=server.url)) for frontend in frontends]
        await until(lambda: server.has(2))
        ending = asyncio.Event()
        traffic = [
            asyncio.create_task(_keep_asking(frontend, ending)) for frontend in frontends for _ in "ab"
        ]
        async with shared.other_service() as other:
            granting = asyncio.create_task(other.wait_granted(timeout_s=30))
            await granting
            assert not await shared.is_loaded()
            assert await shared.our_lease() is None
            await other.commit()
            server.answer()
            for frontend in frontends:  # who stood by hears of the end a moment later
                await until(partial(_has_let_go, frontend))
            await asyncio.sleep(1)
        await until(shared.is_loaded)
        assert [answer.status_code for answer in await asyncio.gather(*slow)] == [200, 200]
        await asyncio.sleep(1)
        ending.set()
        answers = [answer for task in traffic for answer in await task]
    assert {answer.status_code for answer in answers} == {200}
    endings = [await frontend.metric('aesthetic_gpu_endings_total{reason="yield"}') for frontend in frontends]
    assert sorted(endings) == [0, 1]
    story = "".join(frontend.log.read_text() for frontend in frontends)
    for chapter in ("granted, fence", "model loading", "yielding", "model unloading, yield", "release"):
        assert f"lease {shared.server_id}: {chapter}" in story


async def test_an_idle_model_is_given_back_and_probes_change_nothing(shared: SharedGpu) -> None:
    """Once no frontend is asked any more, the model is unloaded.

    Probes neither keep the model nor load it.
    """
    first = await shared.start_frontend(idle_release_s=1.5)
    second = await shared.start_frontend(idle_release_s=1.5)
    probing = asyncio.create_task(_keep_probing(first, second))
    for frontend in (first, second):
        assert (await frontend.score()).status_code == 200
    ends_at_s = time.monotonic() + 4
    while time.monotonic() < ends_at_s:  # only the second is used
        assert (await second.score()).status_code == 200
        await asyncio.sleep(0.2)
    assert await shared.is_loaded()
    assert (await second.gpu())["state"] == "ready"
    await until(lambda: _is_unloaded(shared))
    for frontend in (first, second):
        await until(partial(_has_let_go, frontend))
    await asyncio.sleep(1)
    assert not await shared.is_loaded()
    probing.cancel()
    assert (await first.score()).status_code == 200  # and the next request has it loaded again
    assert await shared.is_loaded()


async def test_callers_at_tritons_own_door_keep_the_model(shared: SharedGpu) -> None:
    """A model that is used directly through Triton is not idle."""
    frontend = await shared.start_frontend(idle_release_s=1.0)
    assert (await frontend.score()).status_code == 200
    ends_at_s = time.monotonic() + 4
    async with InferenceServerClient(shared.triton_url) as client:
        while time.monotonic() < ends_at_s:
            await client.infer(NETWORK.name, _inputs())
            await asyncio.sleep(0.2)
    assert (await frontend.gpu())["state"] == "ready"
    await until(lambda: _is_unloaded(shared))


async def test_known_scores_and_unreadable_pictures_need_no_gpu(shared: SharedGpu) -> None:
    """While the model is unloaded, cached scores are answered.

    Pictures that cannot be decoded are refused, without loading the model.
    """
    frontend = await shared.start_frontend(idle_release_s=0.5, max_cache_bytes=10_000)
    scored = (await frontend.score()).json()
    await until(lambda: _is_unloaded(shared))
    again = (await frontend.score()).json()
    assert (again["cached"], again["raw_score"], again["model"]) == (
        True,
        scored["raw_score"],
        scored["model"],
    )
    assert (await frontend.score(image_base64="bm8gaW1hZ2U=")).status_code == 422
    assert (await frontend.gpu())["state"] == "unloaded"
    assert not await shared.is_loaded()


async def test_the_memory_is_in_use_by_somebody_as_urgent(shared: SharedGpu) -> None:
    """A request waits for the memory as long as configured, then gets 503 gpu_unavailable.

    The answer says when to come back.
    """
    frontend = await shared.start_frontend(gpu_wait_s=1.0)
    async with shared.other_service(priority=500) as other:
        await other.wait_granted(timeout_s=10)
        answer = await frontend.score()
        assert (answer.status_code, answer.json()["code"]) == (503, "gpu_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert len((await shared.table()).waiters) == 1  # its place is kept for those who come back
        assert (await frontend.client.get("/health/ready")).status_code == 200  # nothing is wrong
        hurried = await frontend.client.post(
            "/score",
            json={"prompt": "a red square", "image_base64": PICTURE},
            headers={"X-Request-Timeout-Ms": "200"},
        )
        assert (hurried.status_code, hurried.json()["code"]) == (504, "deadline_exceeded")
    await until(lambda: _is_scored(frontend))  # a second may be too short to load it on a busy machine


async def test_the_last_frontend_to_end_gives_the_memory_back(shared: SharedGpu) -> None:
    """After SIGTERM the keeper hands the model over to the other frontend.

    The last frontend leaves nothing behind.
    """
    first, second = await shared.start_frontend(), await shared.start_frontend()
    for frontend in (first, second):
        assert (await frontend.score()).status_code == 200
    lease = await shared.our_lease()
    assert lease is not None
    await until(partial(_knows_fence, second, lease.fence))  # it stands by
    await asyncio.sleep(TTL_S / 2)  # and the keeper knows
    first.stop(signal.SIGTERM)
    assert await shared.is_loaded()
    handed = await shared.our_lease()
    assert handed is not None
    assert (handed.fence > lease.fence, handed.phase) == (True, Phase.ACTIVE)
    assert await second.metric("aesthetic_gpu_load_seconds_count") == 0
    assert (await second.score()).status_code == 200
    second.stop(signal.SIGTERM)
    assert await _is_unloaded(shared)


async def test_the_claim_is_what_the_manifest_measured(
    shared: SharedGpu, published_repository: Path, tmp_path: Path
) -> None:
    """Without AESTHETIC_VRAM_MB, the claim is the size in the version's manifest.

    Without one there, it is 2048 MiB.
    """
    repository = copy_published(published_repository, tmp_path / "measured")
    path = repository / NETWORK.name / "1" / "manifest.json"
    content = json.loads(path.read_text())
    for measured_mb, claimed_mb in ((None, 2048), (1500, 1500)):
        path.write_text(json.dumps({**content, "vram_mb": measured_mb}))
        frontend = await shared.start_frontend(model_repository=repository, vram_mb=None)
        assert (await frontend.score()).status_code == 200
        assert (await frontend.gpu())["vram_mb"] == claimed_mb
        frontend.stop(signal.SIGTERM)


async def _keep_asking(frontend: Frontend, ending: asyncio.Event) -> list[httpx.Response]:
    answers = []
    while not ending.is_set():
        answers.append(await frontend.score())
        await asyncio.sleep(0.05)
    return answers


async def _keep_probing(*frontends: Frontend) -> None:
    while True:
        for frontend in frontends:
            await frontend.client.get("/health/ready")
        await asyncio.sleep(0.1)


async def _has_active_lease(shared: SharedGpu) -> bool:
    lease = await shared.our_lease()
    return lease is not None and lease.phase is Phase.ACTIVE


async def _knows_fence(frontend: Frontend, fence: int) -> bool:
    return bool((await frontend.gpu())["fence"] == fence)


async def _has_let_go(frontend: Frontend) -> bool:
    return (await frontend.gpu())["state"] in {"reserving", "unloaded"}


async def _is_scored(frontend: Frontend) -> bool:
    return (await frontend.score()).status_code == 200


async def _is_unloaded(shared: SharedGpu) -> bool:
    return not await shared.is_loaded() and await shared.our_lease() is None


def _inputs() -> list[InferInput]:
    tokens = tokenise(["a red square"])
    arrays: list[Any] = [np.zeros((1, 3, 224, 224), np.uint8), tokens.input_ids, tokens.attention_mask]
    inputs = []
    for spec, array in zip(NETWORK.inputs, arrays, strict=True):
        tensor = InferInput(spec.name, list(array.shape), spec.dtype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs
