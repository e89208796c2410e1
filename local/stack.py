"""Triton and the frontend together, from a free port to an orderly end."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from local import tritonserver
from local.errors import NothingPublished, PortTaken, StartFailed
from local.supervised import Supervised
from local.tritonserver import Ports
from local.watchdog import Watchdog
from reward import manifest
from reward.contract import NETWORK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_POLL_S: Final = 0.2


@dataclass(frozen=True)
class StackSettings:
    """What `local up` was asked for."""

    repository: Path
    directory: Path
    """For logs and the composed backend directory."""
    host: str = "127.0.0.1"
    port: int = 8006
    triton: Ports = field(default_factory=Ports)
    ready_timeout_s: float = 300.0
    unready_limit_s: float = 60.0
    """How long a process that lives may fail to work before it is ended and started again."""
    frontend_log: Path | None = None
    """Where the frontend's log goes; None leaves it on standard error."""


class Stack:
    """One Triton and one frontend, supervised."""

    def __init__(self, settings: StackSettings) -> None:
        self.settings = settings
        admin_key = secrets.token_urlsafe(24)  # nobody needs it yet: it shuts the administration
        settings.directory.mkdir(parents=True, exist_ok=True)
        self.triton_log = settings.directory / "triton.log"
        self.triton_log.unlink(missing_ok=True)
        server = tritonserver.find(settings.directory.resolve())
        self.triton = Supervised(
            "Triton",
            server.command(
                settings.repository.resolve(), host=settings.host, ports=settings.triton, admin_key=admin_key
            ),
            server.environment,
            self.triton_log,
        )
        self.frontend = Supervised(
            "the frontend",
            [sys.executable, "-m", "frontend"],
            {
                "AESTHETIC_HOST": settings.host,
                "AESTHETIC_PORT": str(settings.port),
                "AESTHETIC_TRITON_URL": f"{_reachable(settings.host)}:{settings.triton.http}",
                "AESTHETIC_MODEL_REPOSITORY": str(settings.repository.resolve()),
            },
            settings.frontend_log,
        )

    async def run(self) -> None:
        """Start both, say where they are, keep them alive until SIGINT or SIGTERM, leave nothing behind.

        Raises:
            LocalError: something is missing or taken, or one of them does not start.
        """
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ending.set)
        async with self.stopping():
            starting = asyncio.create_task(self.start())
            stopped = asyncio.create_task(ending.wait())
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                return
            starting.result()
            _say(self._addresses())
            alive = [asyncio.create_task(part.keep_alive(_complain)) for part in (self.triton, self.frontend)]
            watchdog = Watchdog(
                self.triton,
                self.frontend,
                self.url,
                unready_limit_s=self.settings.unready_limit_s,
                start_limit_s=self.settings.ready_timeout_s,
                report=_complain,
            )
            alive.append(asyncio.create_task(watchdog.run()))
            await stopped
            for task in alive:
                task.cancel()

    @asynccontextmanager
    async def stopping(self) -> AsyncIterator[None]:
        """End both when the block ends, however it ends."""
        try:
            yield
        finally:
            await self.frontend.stop()  # first: it finishes what Triton is still needed for
            await self.triton.stop()

    async def start(self) -> None:
        """Start both and return when a pixel was scored.

        Raises:
            LocalError: something is missing or taken, or one of them does not start.
        """
        _check_published(self.settings.repository)
        _check_ports(self.settings)
        started = time.monotonic()
        _say("starting Triton …")
        await self.triton.start()
        triton_url = f"http://{_reachable(self.settings.host)}:{self.settings.triton.http}/v2/health/ready"
        await self._wait(triton_url, self.triton, started)
        _say("starting the frontend …")
        await self.frontend.start()
        # Ready means that a real one-pixel image was scored.
        await self._wait(f"{self.url}/health/ready", self.frontend, started)
        _say(f"ready after {time.monotonic() - started:.1f} s")

    async def _wait(self, url: str, part: Supervised, started: float) -> None:
        while not await asyncio.to_thread(_answers, url):
            if part.exit_status is not None:
                reason = _last_error(self.triton_log) if part is self.triton else "see its messages above"
                raise StartFailed(f"{part.name} ended at once (status {part.exit_status}): {reason}")
            if self.triton.exit_status is not None:
                raise StartFailed(f"Triton ended: {_last_error(self.triton_log)}")
            if time.monotonic() - started > self.settings.ready_timeout_s:
                raise StartFailed(
                    f"{part.name} is not ready after {self.settings.ready_timeout_s:g} s; see {self.triton_log}"
                )
            await asyncio.sleep(_POLL_S)

    @property
    def url(self) -> str:
        """Where the REST door is reached from this machine."""
        return f"http://{_reachable(self.settings.host)}:{self.settings.port}"

    def _addresses(self) -> str:
        host, ports = _reachable(self.settings.host), self.settings.triton
        return (
            f"REST      {self.url}  (documentation: /docs)\n"
            f"Triton    http://{host}:{ports.http}, gRPC {host}:{ports.grpc}, metrics {host}:{ports.metrics}\n"
            f"Log       {self.triton_log}\n"
            "Ctrl-C ends both."
        )


def _check_published(repository: Path) -> None:
    for entry in (repository / NETWORK.name).glob("*/" + manifest.FILE_NAME):
        if entry.parent.name.isdecimal():
            return
    raise NothingPublished(
        f"no model is published in {repository}: run 'make up' (without a network 'make up MODEL=demo'), "
        "'make up CHECKPOINT=path/to/ImageReward.pt', "
        "or 'python -m export publish --checkpoint FILE --name NAME'"
    )


def _check_ports(settings: StackSettings) -> None:
    wanted = {
        "--port": settings.port,
        "--triton-http-port": settings.triton.http,
        "--triton-grpc-port": settings.triton.grpc,
        "--triton-metrics-port": settings.triton.metrics,
    }
    for option, port in wanted.items():
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise PortTaken(
                    f"{settings.host}:{port} cannot be used ({error.strerror}); choose another with {option}"
                ) from error


def _reachable(host: str) -> str:
    """Where a server that listens on `host` is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 - our own http address
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _last_error(log: Path) -> str:
    """Return the most telling line of Triton's log: why a model was not loaded, else its last error."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [line for line in lines if line.startswith(("E", "error"))]
    loading = [line for line in errors if "failed to load" in line]
    line = (loading[:1] or errors[-1:] or lines[-1:] or ["it wrote nothing"])[0]
    message = line.split("] ", 1)[-1].strip('" ')
    # Triton writes line ends as "\\n"; what follows this one is a traceback.
    message = message.partition(r"\n\nAt:")[0]
    return f"{message} (log: {log})"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is what the person at the terminal reads


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - likewise
