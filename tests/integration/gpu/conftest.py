"""A GPU for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from model_boss import Ledger, LedgerOptions
from tests.integration.gpu.keepers import begin
from tests.integration.gpu.shared_gpu import TTL_S, SharedGpu
from tests.integration.gpu.stand_in_triton import StandInTriton
from tests.integration.model_boss.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
async def shared(published_repository: Path, tmp_path: Path) -> AsyncIterator[SharedGpu]:
    """Redis, Triton and a ledger with one GPU, without any frontend yet."""
    async with SharedGpu(published_repository, tmp_path) as shared:
        yield shared


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def ledger(redis: RedisServer) -> AsyncIterator[Ledger]:
    """A ledger past its grace; a new one grants nothing for one time to live."""
    async with Ledger(redis.url, LedgerOptions(ttl_s=TTL_S)) as ledger:
        await begin(ledger, redis)
        yield ledger


@pytest.fixture
def triton() -> StandInTriton:
    return StandInTriton()
