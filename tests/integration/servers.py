"""Triton and frontends as child processes, each by itself, for tests that no supervisor may help.

`tests.integration.stack` starts both as a person does, supervised.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import httpx
from PIL import Image

from local import tritonserver
from reward.contract import MODELS
from tests.integration import forked_frontend
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from reward.contract import ModelSpec

START_TIMEOUT_S: Final = 60.0
ADMIN_KEY: Final = "the-tests-own-key"


def _picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE: Final = _picture()
"""A small one, in base64."""


class Process:
    """A process of a test, in a session of its own, whose output goes to a file."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        self.environment = environment
        self._process: subprocess.Popen[bytes] | forked_frontend.Forked | None = None

    def start(self) -> None:
        raise NotImplementedError

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

    def wait_for(self, url: str) -> None:
        """Wait until the process answers this address with 200."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            with suppress(httpx.TransportError):
                if httpx.get(url, timeout=START_TIMEOUT_S).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{url} is not ready; see {self.log}")


class Triton(Process):
    """Triton as `local up` starts it, on ports of its own; `models` are loaded at the start."""

    def __init__(self, repository: Path, directory: Path, models: Iterable[ModelSpec] = MODELS) -> None:
        ports = tritonserver.Ports(*free_ports(3))
        self.url, self.grpc_url = (f"127.0.0.1:{port}" for port in (ports.http, ports.grpc))
        self.server_id = f"triton-of-the-test@{self.url}"
        server = tritonserver.find(directory)
        self.command = server.command(
            repository,
            host="127.0.0.1",
            ports=ports,
            admin_key=ADMIN_KEY,
            server_id=self.server_id,
            models=models,
        )
        super().__init__(directory / "triton.log", server.environment)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_and_wait(self) -> None:
        """Start it; once more if it aborts, as Triton 2.51 may on a busy machine."""
        ready = f"http://{self.url}/v2/health/ready"
        self.start()
        try:
            self.wait_for(ready)
        except AssertionError:
            if "boost::interprocess::lock_exception" not in self.log.read_text()[-500:]:
                raise
            self._process = None
            tritonserver.remove_regions(self.server_id)
            self.start()
            self.wait_for(ready)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal; nothing starts it again."""
        super().stop(number)
        tritonserver.remove_regions(self.server_id)


class Frontend(Process):
    """One frontend on a port of its own; a setting that is None keeps its default."""

    def __init__(self, repository: Path, directory: Path, triton_url: str, **settings: object) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        chosen = {
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "TRITON_URL": triton_url,
            "MODEL_REPOSITORY": repository,
            "DECODE_WORKERS": 1,
            **{name.upper(): value for name, value in settings.items()},
        }
        environment = {f"AESTHETIC_{name}": str(value) for name, value in chosen.items() if value is not None}
        super().__init__(directory / f"frontend-{self.port}.log", environment)
        self.client = httpx.AsyncClient(base_url=self.url, timeout=60)

    def start(self) -> None:
        self._process = forked_frontend.start(self.environment, self.log)

    async def start_and_wait(self) -> None:
        self.start()
        await asyncio.to_thread(self.wait_for, f"{self.url}/health/live")

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


async def until(holds: Callable[[], Any], timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until a condition holds; it is checked again and again."""
    deadline = time.monotonic() + timeout_s
    while not await holds():
        assert time.monotonic() < deadline, "it did not become true"
        await asyncio.sleep(0.05)
