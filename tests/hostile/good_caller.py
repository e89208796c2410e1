"""The service under attack, and a good caller who asks it ordinary questions meanwhile.

It is asserted that none of the good caller's scores is wrong. How often the caller is answered, and
after which wait, is only printed (`pytest -s`), since it says as much about the machine.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import io
import json
import os
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from local.ports import free_ports
from tests.pictures import photograph
from tests.unit.frontend.triton.stand_in import publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PAUSE_S: Final = 0.05
_CERTAIN: Final = ("raw_score", "image", "prompt_tokens", "model_version")
QUESTION: Final = json.dumps(
    {"prompt": "a cup of coffee", "image_base64": base64.b64encode(photograph("coffee")).decode()}
).encode()


class Service:
    """The frontend over a stand-in for Triton, on a port of its own."""

    def __init__(self, session: aiohttp.ClientSession, port: int, process: int, log: Path) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"
        self._process = process
        self.port = port
        self.log = log

    def memory_mib(self) -> float:
        """Return the most memory that the frontend's process has had."""
        status = Path(f"/proc/{self._process}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def forget_memory(self) -> float:
        """Let the most memory be what it is now; return it."""
        Path(f"/proc/{self._process}/clear_refs").write_text("5")
        return self.memory_mib()

    async def health(self) -> int:
        """Return the status of `/health/live`."""
        async with self._session.get(self._url + "/health/live") as response:
            return response.status

    async def ask(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer to one request; the status is 0 without an answer."""
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(
                self._url + path, data=io.BytesIO(body), headers=headers
            ) as response:
                return response.status, await response.json()
        except aiohttp.ClientError:
            return 0, {}

    @asynccontextmanager
    async def with_good_caller(self, attack: str) -> AsyncIterator[None]:
        """Ask again and again until the block ends.

        Raises:
            AssertionError: the good caller got another score than before.
        """
        expected = await self.ask("/score", QUESTION)
        assert expected[0] == 200
        before_mib = self.forget_memory()
        waits_s: list[float] = []
        answers: collections.Counter[int] = collections.Counter()

        async def ask_on() -> None:
            while True:
                begun = time.monotonic()
                status, answer = await self.ask("/score", QUESTION)
                waits_s.append(time.monotonic() - begun)
                answers[status] += 1
                assert status != 200 or all(answer[name] == expected[1][name] for name in _CERTAIN)
                await asyncio.sleep(_PAUSE_S)

        caller = asyncio.create_task(ask_on())
        try:
            yield
            await asyncio.sleep(_PAUSE_S)
        finally:
            caller.cancel()
            with suppress(asyncio.CancelledError):
                await caller
        assert answers[200]
        print(  # noqa: T201 - for docs/reliability.md
            f"\n{attack}: good caller {dict(answers)}, worst {max(waits_s, default=0):.2f} s, "
            f"memory +{self.memory_mib() - before_mib:.0f} of {before_mib:.0f} MiB, "
            f"log {self.log.stat().st_size / 1e3:.0f} kB"
        )


@asynccontextmanager
async def service(directory: Path, *, max_files: int = 4096, **settings: Any) -> AsyncIterator[Service]:
    """Start the frontend in a process of its own, with these settings, and so many open files.

    It has no cache, so that every caller's image is decoded.
    """
    (port,) = free_ports(1)
    async with standing_in() as triton:
        values = {
            "host": "127.0.0.1",
            "port": port,
            "triton_url": f"127.0.0.1:{triton.port}",
            "model_repository": publish_manifest(directory),
            "max_cache_bytes": 0,
            "decode_workers": 2,
            **settings,
        }
        log = directory / "frontend.log"
        script = f'ulimit -n {max_files} && exec "$@" 2>"{log}"'
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script, "bash", sys.executable, "-m", "frontend"),
            env=os.environ | {f"AESTHETIC_{name.upper()}": str(value) for name, value in values.items()},
            stdout=asyncio.subprocess.DEVNULL,
        )
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                attacked = Service(session, port, process.pid, log)
                while (await attacked.ask("/score", QUESTION))[0] != 200:
                    assert process.returncode is None
                    await asyncio.sleep(0.1)
                yield attacked
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
