"""The service under attack, and a good caller who asks it ordinary questions meanwhile.

It is asserted that none of the good caller's scores is wrong. How often the caller is answered, and
after which wait, is only printed (`pytest -s`), since it says as much about the machine.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from tests.pictures import photograph
from tests.ports import free_ports
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

    def __init__(
        self,
        session: aiohttp.ClientSession,
        aside: asyncio.subprocess.Process,
        port: int,
        process: int,
        log: Path,
    ) -> None:
        self._session = session
        self._aside = aside
        self._url = f"http://127.0.0.1:{port}"
        self._process = process
        self.port = port
        self.log = log

    def memory_mib(self) -> float:
        """Return the most memory that the frontend's process has had."""
        status = Path(f"/proc/{self._process}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def processor_s(self) -> float:
        """Return the processor time that the frontend's process has had."""
        fields = Path(f"/proc/{self._process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_memory(self) -> float:
        """Let the most memory be what it is now; return it."""
        Path(f"/proc/{self._process}/clear_refs").write_text("5")
        return self.memory_mib()

    async def health(self) -> int:
        """Return the status of `/health/live`."""
        async with self._session.get(self._url + "/health/live") as response:
            return response.status

    async def ask(
        self, path: str, body: bytes, *, content_type: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer to one request; the status is 0 without an answer."""
        headers = {"Content-Type": content_type}
        try:
            async with self._session.post(
                self._url + path, data=io.BytesIO(body), headers=headers
            ) as response:
                return response.status, await response.json()
        except aiohttp.ClientError:
            return 0, {}

    @asynccontextmanager
    async def with_good_caller(self, attack: str) -> AsyncIterator[None]:
        """Have the good caller ask again and again until the block ends.

        Raises:
            AssertionError: it got another score than before, or none at all.
        """
        before_mib, before_s, begun_s = self.forget_memory(), self.processor_s(), time.monotonic()
        await _tell(self._aside, f"{self.port}")
        try:
            yield
        finally:
            found = json.loads(await _tell(self._aside, "end"))
        print(  # noqa: T201 - for docs/reliability.md
            f"\n{attack}: good caller {found['answers']}, worst {found['worst_s']:.2f} s, "
            f"processor {self.processor_s() - before_s:.1f} of {time.monotonic() - begun_s:.1f} s, "
            f"memory +{self.memory_mib() - before_mib:.0f} of {before_mib:.0f} MiB, "
            f"log {self.log.stat().st_size / 1e3:.0f} kB"
        )
        assert found["wrong"] == []
        assert found["answers"].get("200")


@asynccontextmanager
async def service(directory: Path, *, max_files: int = 4096, **settings: Any) -> AsyncIterator[Service]:
    """Start the frontend in a process of its own, with these settings, and so many open files.

    It has no cache, so that every caller's image is decoded. The good caller and the stand-in for
    Triton have a process of their own, so that they do not wait for the attackers, who share one
    with the test.
    """
    (port,) = free_ports(1)
    async with _running(sys.executable, "-m", "tests.hostile.good_caller") as aside:
        values = {
            "host": "127.0.0.1",
            "port": port,
            "triton_url": f"127.0.0.1:{await _tell(aside, '')}",
            "model_repository": publish_manifest(directory),
            "max_cache_bytes": 0,
            "decode_workers": 2,
            **settings,
        }
        log = directory / "frontend.log"
        script = f'ulimit -n {max_files} && exec "$@" 2>"{log}"'
        variables = {f"AESTHETIC_{name.upper()}": str(value) for name, value in values.items()}
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with (
            _running("bash", "-c", script, "bash", sys.executable, "-m", "frontend", **variables) as process,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            attacked = Service(session, aside, port, process.pid, log)
            while (await attacked.ask("/score", QUESTION))[0] != 200:
                assert process.returncode is None
                await asyncio.sleep(0.1)
            yield attacked


@asynccontextmanager
async def _running(*command: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    environment = os.environ | variables
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdin=pipe, stdout=pipe)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _tell(aside: asyncio.subprocess.Process, line: str) -> str:
    """Tell the good caller's process something and return what it says."""
    assert aside.stdin is not None
    assert aside.stdout is not None
    aside.stdin.write(line.encode() + b"\n")
    return (await aside.stdout.readline()).decode()


async def _stand_aside() -> None:
    """Stand in for Triton; ask between a line with the frontend's port and the next line."""
    async with standing_in() as triton:
        await _heard()
        _say(triton.port)
        while port := (await _heard()).strip():
            found: dict[str, Any] = {"worst_s": 0.0, "answers": {}, "wrong": []}
            asking = asyncio.create_task(_ask_on(f"http://127.0.0.1:{port}/score", found))
            _say("asking")
            await _heard()
            await asyncio.sleep(_PAUSE_S)
            asking.cancel()
            await asyncio.wait({asking})
            _say(json.dumps(found))


async def _heard() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


def _say(line: object) -> None:
    print(line, flush=True)  # noqa: T201 - to the process that started this one


async def _ask_on(url: str, found: dict[str, Any]) -> None:
    expected: dict[str, Any] | None = None
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while True:
            begun_s = time.monotonic()
            status, answer = 0, {}
            try:
                with suppress(aiohttp.ClientError):
                    async with session.post(url, data=QUESTION, headers=headers) as response:
                        status, answer = response.status, await response.json()
            finally:  # also if it still waits when the attack ends
                found["worst_s"] = max(found["worst_s"], time.monotonic() - begun_s)
            found["answers"][str(status)] = found["answers"].get(str(status), 0) + 1
            if status == 200:
                expected = expected or answer
                found["wrong"] += [answer[name] for name in _CERTAIN if answer[name] != expected[name]]
            await asyncio.sleep(_PAUSE_S)


if __name__ == "__main__":
    asyncio.run(_stand_aside())
