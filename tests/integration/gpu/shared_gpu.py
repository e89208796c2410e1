"""One GPU in a real ledger, one real Triton, and as many real frontends as a test wants."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self

import httpx

from model_boss import Capacity, Claim, Lease, Ledger, LedgerOptions
from model_boss.protocol import Keys
from reward.contract import NETWORK, PREPROCESS
from tests.integration.model_boss.servers import RedisServer
from tests.integration.servers import ADMIN_KEY, Frontend, Triton

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from model_boss import Row, Table

GPU: Final = "test:0"
CAPACITY: Final = Capacity(4096, 0)
CLAIMED_MB: Final = 3000
TTL_S: Final = 3.0


class SharedGpu:
    """Redis, Triton with only the preprocessing loaded, and a client of the ledger."""

    def __init__(self, repository: Path, directory: Path) -> None:
        self.directory = directory
        self.redis = RedisServer(directory)
        self.frontends: list[Frontend] = []
        self.ledger: Ledger
        self._choose(repository)

    async def __aenter__(self) -> Self:
        self.redis.start()
        self.ledger = Ledger(self.redis.url, LedgerOptions(ttl_s=TTL_S))
        await self.ledger.set_capacity(GPU, CAPACITY)
        await self._end_grace()
        await self.start_triton()
        return self

    async def __aexit__(self, *_: object) -> None:
        for frontend in self.frontends:
            frontend.stop(signal.SIGKILL)
            await frontend.client.aclose()
        self.kill_triton()
        await self.ledger.aclose()
        self.redis.kill()

    async def _end_grace(self) -> None:
        """End the ledger's first grace, as if it had begun long ago.

        A new ledger grants nothing for one time to live.
        """
        claim = Claim(GPU, "first", "first", "first", 1)
        await self.ledger.reserve(claim)
        await self.ledger.release(claim)
        with self.redis.client() as client:
            client.hset(Keys.of("model-boss", GPU).epoch, "grace_until_ms", 1)

    def _choose(self, repository: Path) -> None:
        self.repository = repository
        self._triton = Triton(repository, self.directory, models=[PREPROCESS])
        self.triton_url, self.server_id = self._triton.url, self._triton.server_id

    async def serve_another(self, repository: Path) -> None:
        """End Triton, and start one on another repository and other ports."""
        self.kill_triton()
        self._choose(repository)
        await self.start_triton()

    async def start_triton(self) -> None:
        await asyncio.to_thread(self._triton.start_and_wait)

    def kill_triton(self) -> None:
        self._triton.stop(signal.SIGKILL)

    def frontend(self, **settings: object) -> Frontend:
        """Describe one more frontend; a setting that is None keeps its default."""
        chosen = {
            "triton_admin_key": ADMIN_KEY,
            "redis_url": self.redis.url,
            "gpu": GPU,
            "vram_mb": CLAIMED_MB,
            "model_boss_ttl_s": TTL_S,
            "idle_release_s": 0,
            "gpu_wait_s": 20,
            "max_cache_bytes": 0,
            **settings,
        }
        frontend = Frontend(self.repository, self.directory, self.triton_url, **chosen)
        self.frontends.append(frontend)
        return frontend

    async def start_frontend(self, **settings: object) -> Frontend:
        frontend = self.frontend(**settings)
        await frontend.start_and_wait()
        return frontend

    async def is_loaded(self) -> bool:
        """Tell whether Triton has the network loaded."""
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{self.triton_url}/v2/models/{NETWORK.name}/ready")
        return answer.status_code == 200

    async def table(self) -> Table:
        return await self.ledger.table(GPU)

    async def our_lease(self) -> Row | None:
        """Return the lease of the service, if there is one."""
        return next((row for row in (await self.table()).leases if row.lease_id == self.server_id), None)

    @asynccontextmanager
    async def other_service(self, *, priority: int = 900, vram_mb: int = 3000) -> AsyncIterator[Lease]:
        """Another service that claims so much memory that the two do not fit together."""
        claim = Claim(GPU, "diffusion-1", "diffusion", "sdxl", vram_mb, priority)
        async with Lease(self.ledger, claim) as lease:
            yield lease
