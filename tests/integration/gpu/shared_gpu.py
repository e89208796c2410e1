"""One GPU in a real ledger, one real Triton, and as many real frontends as a test wants."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
from PIL import Image

from local import tritonserver
from local.ports import free_ports
from model_boss import Capacity, Claim, Lease, Ledger, LedgerOptions
from model_boss.protocol import Keys
from reward.contract import NETWORK, PREPROCESS
from tests.integration.model_boss.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from model_boss import Row, Table

GPU: Final = "test:0"
CAPACITY: Final = Capacity(4096, 0)
CLAIMED_MB: Final = 3000
TTL_S: Final = 3.0
_ADMIN_KEY: Final = "the-tests-own-key"
_START_TIMEOUT_S: Final = 60.0


class Process:
    """A child process whose output goes to a file."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process by a signal, and kill whatever it left behind."""
        if self._process is None:
            return
        group = self._process.pid
        self._process.send_signal(number)
        self._process.wait(timeout=60)
        self._process = None
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def check_alive(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]


class Frontend(Process):
    """One frontend on a port of its own."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        (self.port,) = free_ports(1)
        super().__init__(directory / f"frontend-{self.port}.log")
        self.environment = {**environment, "AESTHETIC_PORT": str(self.port)}
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    async def start_and_wait(self) -> None:
        self.start([sys.executable, "-m", "frontend"], self.environment)
        await until(self._is_live)

    async def health(self, status: int) -> httpx.Response:
        """Return the answer of `/health/ready` once it has this status."""
        answers: list[httpx.Response] = []

        async def is_told() -> bool:
            answers.append(await self.client.get("/health/ready"))
            return answers[-1].status_code == status and "nothing is known yet" not in answers[-1].text

        await until(is_told)
        return answers[-1]

    async def score(self, prompt: str = "a red square", **body: Any) -> httpx.Response:
        """Score a small picture, or the image that `body` names."""
        return await self.client.post(
            "/score", json={"prompt": prompt, **(body or {"image_base64": PICTURE})}
        )

    async def gpu(self) -> dict[str, Any]:
        """Return what `/info` says about the GPU."""
        answer = await self.client.get("/info")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["gpu"]
        return found

    async def metric(self, name: str) -> float:
        """Return one sample of `/metrics`, given with its labels; 0 if it does not exist yet."""
        for line in (await self.client.get("/metrics")).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    async def _is_live(self) -> bool:
        self.check_alive()
        try:
            return (await self.client.get("/health/live")).status_code == 200
        except httpx.TransportError:
            return False


class SharedGpu:
    """Redis, Triton with only the preprocessing loaded, and a client of the ledger."""

    def __init__(self, repository: Path, directory: Path) -> None:
        self.repository = repository
        self.directory = directory
        self.redis = RedisServer(directory)
        self.frontends: list[Frontend] = []
        http, grpc, metrics = free_ports(3)
        self.triton_url = f"127.0.0.1:{http}"
        self._ports = tritonserver.Ports(http, grpc, metrics)
        self.server_id = f"triton-of-the-test@{http}"
        self.admin_key = _ADMIN_KEY
        self._triton = Process(directory / "triton.log")
        self.ledger: Ledger

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

    async def start_triton(self) -> None:
        server = tritonserver.find(self.directory)
        command = server.command(
            self.repository,
            host="127.0.0.1",
            ports=self._ports,
            admin_key=_ADMIN_KEY,
            server_id=self.server_id,
            models=[PREPROCESS],
        )
        self._triton.start(command, server.environment)
        await until(self._triton_is_ready)

    def kill_triton(self) -> None:
        self._triton.stop(signal.SIGKILL)
        tritonserver.remove_regions(self.server_id)

    def frontend(self, **settings: object) -> Frontend:
        """Describe one more frontend; a setting that is None keeps its default."""
        chosen = {
            "HOST": "127.0.0.1",
            "TRITON_URL": self.triton_url,
            "TRITON_ADMIN_KEY": _ADMIN_KEY,
            "MODEL_REPOSITORY": self.repository,
            "REDIS_URL": self.redis.url,
            "GPU": GPU,
            "VRAM_MB": CLAIMED_MB,
            "MODEL_BOSS_TTL_S": TTL_S,
            "IDLE_RELEASE_S": 0,
            "GPU_WAIT_S": 20,
            "MAX_CACHE_BYTES": 0,
            "DECODE_WORKERS": 1,
            **{name.upper(): value for name, value in settings.items()},
        }
        environment = {f"AESTHETIC_{name}": str(value) for name, value in chosen.items() if value is not None}
        frontend = Frontend(self.directory, environment)
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

    async def _triton_is_ready(self) -> bool:
        self._triton.check_alive()
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://{self.triton_url}/v2/health/ready")).status_code == 200
        except httpx.TransportError:
            return False


async def until(holds: Callable[[], Any], timeout_s: float = _START_TIMEOUT_S) -> None:
    """Wait until a condition holds; it is checked again and again."""
    deadline = time.monotonic() + timeout_s
    while not await holds():
        assert time.monotonic() < deadline, "it did not become true"
        await asyncio.sleep(0.05)


def _picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE: Final = _picture()
