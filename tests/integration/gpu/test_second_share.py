"""Memory for a second version beside the served one, from a real ledger."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from export.errors import NoSecondShare
from export.second_share import LedgerSettings, second_share
from model_boss import Claim, Ending, Granted, Phase
from reward import manifest
from reward.contract import NETWORK
from tests.integration.gpu.keepers import other_service
from tests.integration.gpu.shared_gpu import CAPACITY, GPU, TTL_S
from tests.integration.servers import until

if TYPE_CHECKING:
    from model_boss import Ledger
    from tests.integration.model_boss.servers import RedisServer

SERVER_ID = "triton-1"
VERSION = Path("image_reward_network/2")
TRITONS = Claim(GPU, SERVER_ID, "imajin-aesthetic", "image_reward_network", 1500, 500, "frontend-1")


def _settings(redis: RedisServer, *, wait_s: float = 20, vram_mb: int = 2000) -> LedgerSettings:
    environment = {
        "AESTHETIC_VRAM_MB": str(vram_mb),
        "AESTHETIC_REDIS_URL": redis.url,
        "AESTHETIC_GPU": GPU,
        "AESTHETIC_MODEL_BOSS_TTL_S": str(TTL_S),
        "AESTHETIC_GPU_WAIT_S": str(wait_s),
    }
    settings = LedgerSettings.read(environment)
    assert settings is not None
    return settings


async def _held(ledger: Ledger) -> dict[str, int]:
    """Return what each lease holds; the name of a share ends with something random."""
    table = await ledger.table(GPU)
    assert table.waiters == ()
    return {
        row.lease_id.partition("/2-")[0] + "/2" * ("/2-" in row.lease_id): row.vram_mb for row in table.leases
    }


async def _reserve(ledger: Ledger) -> Granted:
    granted = await ledger.reserve(TRITONS)
    assert isinstance(granted, Granted)
    return granted


async def test_tritons_lease_inherits_the_share(ledger: Ledger, redis: RedisServer) -> None:
    """The share is held beside Triton's lease while the second version is loaded.

    From then on it is a part of that lease, and in use as all of it.
    """
    granted = await ledger.commit(TRITONS, await _reserve(ledger))
    assert granted is not None
    with second_share(_settings(redis), server_id=SERVER_ID, directory=VERSION):
        assert await _held(ledger) == {SERVER_ID: 1500, f"{SERVER_ID}/2": 2000}
    assert await _held(ledger) == {SERVER_ID: 3500}
    known = await ledger.renew(TRITONS, granted)
    assert known is not None
    assert (known.vram_mb, known.used_mb) == (3500, 3500)
    after = await ledger.renew(replace(TRITONS, vram_mb=2000), known)  # the old version is gone
    assert after is not None
    assert (after.vram_mb, after.used_mb) == (2000, 2000)


async def test_the_share_lasts_for_as_long_as_a_load(ledger: Ledger, redis: RedisServer) -> None:
    """The share has heartbeats of its own while the command waits for Triton."""
    with second_share(_settings(redis), server_id=SERVER_ID, directory=VERSION):
        await asyncio.sleep(1.5 * TTL_S)
        assert await _held(ledger) == {f"{SERVER_ID}/2": 2000}
    assert await _held(ledger) == {}  # nobody holds Triton's own lease


async def test_a_load_that_fails_gives_the_share_back(ledger: Ledger, redis: RedisServer) -> None:
    """A load that fails gives the share back, and Triton's own lease stays as it is."""
    await _reserve(ledger)
    with (
        pytest.raises(RuntimeError, match="does not load"),
        second_share(_settings(redis), server_id=SERVER_ID, directory=VERSION),
    ):
        raise RuntimeError("it does not load")
    assert await _held(ledger) == {SERVER_ID: 1500}


@pytest.mark.parametrize("vram_mb", [3000, CAPACITY.total_mb + 1])
async def test_without_room_for_two_it_says_what_else_there_is(
    ledger: Ledger, redis: RedisServer, vram_mb: int
) -> None:
    """If the share is never granted, or not in time, nothing is loaded.

    Nobody is left in the queue, and --replace is offered.
    """
    await _reserve(ledger)
    settings = _settings(redis, wait_s=0.5, vram_mb=vram_mb)
    share = second_share(settings, server_id=SERVER_ID, directory=VERSION)
    with pytest.raises(NoSecondShare, match=rf"no {vram_mb} MiB for a second .*--replace"), share:
        raise AssertionError("nothing is loaded")
    assert await _held(ledger) == {SERVER_ID: 1500}


async def test_another_service_makes_room_and_tritons_own_lease_is_left_alone(
    ledger: Ledger, redis: RedisServer
) -> None:
    """A less urgent service yields.

    The model beside which the share is wanted does not yield, even if it is idle.
    """
    async with other_service(ledger, priority=100, vram_mb=2500) as other:
        await other.wait_granted(10)
        await other.commit()
        granted = await _reserve(ledger)
        await ledger.commit(TRITONS, granted)
        for _ in range(5):  # unused for longer than a time to live: idle
            await asyncio.sleep(TTL_S / 4)
            assert await ledger.renew(TRITONS, granted) is not None
        asking = asyncio.create_task(asyncio.to_thread(_hold_for_a_moment, _settings(redis)))
        assert await asyncio.wait_for(other.wait_ending(), 20) is Ending.YIELD
        known = await ledger.renew(TRITONS, granted)
        assert known is not None
        assert known.phase is Phase.ACTIVE
    await asking
    assert await _held(ledger) == {SERVER_ID: 3500}


def _hold_for_a_moment(settings: LedgerSettings) -> None:
    with second_share(settings, server_id=SERVER_ID, directory=VERSION):
        pass


async def test_a_command_that_is_killed_holds_nothing_for_long(ledger: Ledger, redis: RedisServer) -> None:
    """The share of a killed command ends by itself, within one time to live."""
    code = (
        "import os, signal; from pathlib import Path; from export.second_share import *\n"
        f"settings = LedgerSettings.read(os.environ)\n"
        f"with second_share(settings, server_id={SERVER_ID!r}, directory=Path({str(VERSION)!r})):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {
        **os.environ,
        "AESTHETIC_VRAM_MB": "2000",
        "AESTHETIC_REDIS_URL": redis.url,
        "AESTHETIC_GPU": GPU,
        "AESTHETIC_MODEL_BOSS_TTL_S": str(TTL_S),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=environment)
    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
    assert await _held(ledger) == {f"{SERVER_ID}/2": 2000}
    await until(lambda: _is_free(ledger))


async def _is_free(ledger: Ledger) -> bool:
    return await _held(ledger) == {}


async def test_what_is_asked_for_is_what_the_manifest_measured(
    ledger: Ledger, redis: RedisServer, published_repository: Path, tmp_path: Path
) -> None:
    """The size is the manifest's, or 2048 MiB if nothing was measured.

    An operator's AESTHETIC_VRAM_MB comes before both.
    """
    settings = replace(_settings(redis), vram_mb=None)
    directory = Path(shutil.copytree(published_repository / NETWORK.name / "1", tmp_path / "2"))
    with second_share(settings, server_id=SERVER_ID, directory=directory):
        assert await _held(ledger) == {f"{SERVER_ID}/2": 2048}
    measured = replace(manifest.read(directory), vram_mb=1700)
    manifest.write(measured, directory)
    with second_share(settings, server_id=SERVER_ID, directory=directory):
        assert await _held(ledger) == {f"{SERVER_ID}/2": 1700}


async def test_without_a_ledger_nobody_is_asked() -> None:
    """Without a ledger the GPU is not shared, and nobody is asked."""
    assert LedgerSettings.read({}) is None
    with second_share(None, server_id=SERVER_ID, directory=VERSION):
        pass


async def test_a_redis_that_is_away_is_told(redis: RedisServer) -> None:
    """If Redis is away nothing is loaded, because nobody knows whether there is room."""
    settings = _settings(redis, wait_s=0.5)
    redis.kill()
    share = second_share(settings, server_id=SERVER_ID, directory=VERSION)
    with pytest.raises(NoSecondShare, match="Connection"), share:
        raise AssertionError("nothing is loaded")


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"AESTHETIC_GPU_LEDGER": "our:ledger"}, "another coordinator .* --replace"),
        (
            {"AESTHETIC_REDIS_URL": "redis://one", "AESTHETIC_GPU": "g", "AESTHETIC_GPU_PRIORITY": "soon"},
            "soon",
        ),
        (
            {"AESTHETIC_REDIS_URL": "redis://one", "AESTHETIC_GPU": "g", "AESTHETIC_MODEL_BOSS_TTL_S": "x"},
            "x",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_told(environment: dict[str, str], why: str) -> None:
    """Senseless settings are reported before anything is loaded."""
    with pytest.raises(NoSecondShare, match=why):
        LedgerSettings.read(environment)
