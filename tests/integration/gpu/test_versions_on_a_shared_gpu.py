"""Versions are promoted, canaried and replaced on a shared GPU, under a keeper's lease."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from export.deploy import Deployer, Manner
from export.errors import NoSecondShare
from export.registry import Registry
from export.running_triton import RunningTriton
from export.second_share import LedgerSettings
from model_boss import Phase
from reward import deployment, manifest
from reward.contract import NETWORK
from tests.integration.gpu.shared_gpu import GPU, TTL_S, SharedGpu
from tests.integration.servers import ADMIN_KEY, Frontend, until
from tests.repository import copy_published

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TAKES_MB = {1: 1000, 2: 1200}


@pytest.fixture
async def shared(published_repository: Path, tmp_path: Path) -> AsyncIterator[SharedGpu]:
    """A shared GPU with two versions of the small network; the first one is served."""
    repository = copy_published(published_repository, tmp_path / "model_repository")
    network = repository / NETWORK.name
    shutil.copytree(network / "1", network / "2")
    for version, vram_mb in TAKES_MB.items():
        directory = network / str(version)
        manifest.write(replace(manifest.read(directory), vram_mb=vram_mb), directory)
    Deployer(Registry(repository), None, Manner(who="test")).promote(1, is_tried=True)
    async with SharedGpu(repository, tmp_path) as shared:
        yield shared


def _environment(shared: SharedGpu, wait_s: float) -> dict[str, str]:
    return {
        "AESTHETIC_REDIS_URL": shared.redis.url,
        "AESTHETIC_GPU": GPU,
        "AESTHETIC_MODEL_BOSS_TTL_S": str(TTL_S),
        "AESTHETIC_GPU_WAIT_S": str(wait_s),
    }


def _triton(shared: SharedGpu) -> RunningTriton:
    return RunningTriton(shared.triton_url, ADMIN_KEY, load_timeout_s=60)


def _deployer(shared: SharedGpu, *, wait_s: float = 20, **manner: Any) -> Deployer:
    ledger = None if manner.get("replace") else LedgerSettings.read(_environment(shared, wait_s))
    chosen = Manner(who="test", watch_s=0.3, ledger=ledger, **manner)
    return Deployer(Registry(shared.repository), _triton(shared), chosen)


@asynccontextmanager
async def _load(*frontends: Frontend) -> AsyncIterator[None]:
    """Ask all frontends all the time; every question must be answered with a score."""

    async def keep_asking(frontend: Frontend) -> None:
        while True:
            answer = await frontend.score()
            assert answer.status_code == 200, answer.text

    askers = [asyncio.create_task(keep_asking(frontend)) for frontend in frontends for _ in range(2)]
    try:
        yield
        assert not [asker.result() for asker in askers if asker.done()]
    finally:
        for asker in askers:
            asker.cancel()
            with suppress(asyncio.CancelledError):
                await asker


async def _watch_memory(shared: SharedGpu) -> None:
    """Fail if less is leased than is loaded, for longer than one time to live."""
    clock = asyncio.get_running_loop().time
    leased_at_s = clock()
    while True:
        loaded = await asyncio.to_thread(_triton(shared).loaded)
        if (await shared.table()).held_mb >= sum(TAKES_MB[version] for version in loaded):
            leased_at_s = clock()
        assert clock() - leased_at_s <= TTL_S
        await asyncio.sleep(0.05)


async def _leases(shared: SharedGpu, vram_mb: int) -> bool:
    table = await shared.table()
    return [(row.lease_id, row.vram_mb) for row in table.leases] == [(shared.server_id, vram_mb)]


async def test_a_promotion_has_memory_for_both_and_gives_the_rest_back(shared: SharedGpu) -> None:
    """Under load at two frontends, a promotion fails no question and loads nothing twice.

    No memory is without a lease.
    """
    frontends = [await shared.start_frontend(vram_mb=None), await shared.start_frontend(vram_mb=None)]
    assert (await frontends[0].score()).status_code == 200
    await until(partial(_leases, shared, 1000))
    lease = await shared.our_lease()
    assert lease is not None
    watching = asyncio.create_task(_watch_memory(shared))
    async with _load(*frontends):
        for version, vram_mb in ((2, 1200), (1, 1000)):
            outcome = await asyncio.to_thread(_deployer(shared).promote, version)
            assert (outcome.stable, outcome.is_live) == (version, True)
            await until(partial(_leases, shared, vram_mb))
    assert not watching.done(), watching.result()
    watching.cancel()
    after = await shared.our_lease()
    assert after is not None
    assert after.phase is Phase.ACTIVE
    assert sum([await frontend.metric("aesthetic_gpu_load_seconds_count") for frontend in frontends]) == 1


@pytest.mark.slow
async def test_a_canary_is_leased_for_as_long_as_it_is_there(shared: SharedGpu) -> None:
    """Triton's lease contains both versions, even when they are loaded anew."""
    frontend = await shared.start_frontend(vram_mb=None)
    assert (await frontend.score()).status_code == 200
    await asyncio.to_thread(partial(_deployer(shared).promote, 2, canary=0.5))
    await until(partial(_leases, shared, 2200))
    await asyncio.sleep(1.5 * TTL_S)
    assert await _leases(shared, 2200)
    async with shared.other_service(vram_mb=3000) as other:  # more urgent: the model makes room
        await other.wait_granted(30)
    assert (await frontend.score()).status_code == 200
    assert _triton(shared).loaded() == {1, 2}
    assert await _leases(shared, 2200)
    await asyncio.to_thread(_deployer(shared).rollback)
    await until(partial(_leases, shared, 1000))
    assert _triton(shared).loaded() == {1}


async def test_where_there_is_no_memory_for_both_one_replaces_the_other(shared: SharedGpu) -> None:
    """Without memory for both, a promotion is refused, and nothing has changed.

    With `--replace` requests wait, and none fails.
    """
    frontend = await shared.start_frontend(vram_mb=None)
    assert (await frontend.score()).status_code == 200
    async with shared.other_service(vram_mb=2500, priority=500) as other, _load(frontend):
        await other.wait_granted(30)
        await other.commit()
        keeping = asyncio.create_task(_keep_in_use(other))
        with pytest.raises(NoSecondShare, match=r"no 1200 MiB for a second version .*--replace"):
            await asyncio.to_thread(_deployer(shared, wait_s=1).promote, 2)
        assert deployment.read(shared.repository).stable == 1
        assert _triton(shared).loaded() == {1}
        outcome = await asyncio.to_thread(_deployer(shared, replace=True).promote, 2)
        assert (outcome.stable, outcome.is_live) == (2, True)
        await until(partial(_has, shared, "diffusion-1", shared.server_id))
        keeping.cancel()
    assert _triton(shared).loaded() == {2}


async def _keep_in_use(lease: Any) -> None:
    while True:
        lease.touch()
        await asyncio.sleep(0.1)


async def _has(shared: SharedGpu, *lease_ids: str) -> bool:
    return {row.lease_id for row in (await shared.table()).leases} == set(lease_ids)


@pytest.mark.slow
async def test_a_promotion_that_is_killed_leaves_no_memory_unleased(shared: SharedGpu) -> None:
    """After a killed promotion both versions are loaded.

    Triton's lease contains both until the next command tidies up.
    """
    frontend = await shared.start_frontend(vram_mb=None)
    assert (await frontend.score()).status_code == 200
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from export.deploy import Deployer, Manner; from export.registry import Registry\n"
        "from export.running_triton import RunningTriton; from export.second_share import LedgerSettings\n"
        f"triton = RunningTriton({shared.triton_url!r}, {ADMIN_KEY!r})\n"
        "manner = Manner(who='test', ledger=LedgerSettings.read(os.environ))\n"
        "def step(name): name == 'warm up' and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Deployer(Registry(Path({str(shared.repository)!r})), triton, manner, step=step).promote(2)\n"
    )
    environment = {**os.environ, **_environment(shared, 20)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=environment)
    watching = asyncio.create_task(_watch_memory(shared))
    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
    assert _triton(shared).loaded() == {1, 2}
    await asyncio.sleep(1.5 * TTL_S)
    assert await _leases(shared, 2200)
    assert (await frontend.score()).status_code == 200
    await asyncio.to_thread(_deployer(shared).promote, 1)  # what is served already
    assert _triton(shared).loaded() == {1}
    await until(partial(_leases, shared, 1000))
    assert not watching.done(), watching.result()
    watching.cancel()


@pytest.mark.slow
async def test_a_version_that_was_promoted_behind_tritons_back(shared: SharedGpu) -> None:
    """A command that found no Triton may promote a version.

    The keeper then loads it in place of the other, and requests wait.
    """
    frontend = await shared.start_frontend(vram_mb=None)
    async with _load(frontend):
        await until(partial(_leases, shared, 1000))
        await asyncio.to_thread(
            partial(Deployer(Registry(shared.repository), None, Manner(who="test")).promote, 2, is_tried=True)
        )
        await until(partial(_leases, shared, 1200))
    assert _triton(shared).loaded() == {2}
