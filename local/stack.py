"""Triton and the frontend together, with a ledger of GPU memory if asked for: from free ports to an orderly end."""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from local import tritonserver
from local.errors import NothingPublished, PortTaken, StartFailed
from local.ledger import LedgerSettings, OwnLedger
from local.supervised import Supervised
from local.tritonserver import Ports
from local.watchdog import Watchdog, dead_stubs
from reward import manifest
from reward.contract import MODELS, NETWORK, PREPROCESS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

_POLL_S: Final = 0.2
_HARMLESS: Final = "CudaDriverHelper has not been initialized"
"""Triton's error on every machine without a GPU driver; it goes on."""

_OF_TRITON: Final = re.compile(r"[IWEF]\d{4} |[|+]")
"""What Triton's own lines begin with: the level and the date, or the frame of a table."""


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
    ledger: LedgerSettings | None = None
    """Of a Redis to be started; the frontend then shares the GPU through it."""
    redis_url: str | None = None
    """Of a ledger that is there already, where none is started; None: the GPU is not shared."""


class Stack:
    """One Triton, one frontend, and one Redis if asked for, supervised."""

    def __init__(self, settings: StackSettings) -> None:
        self.settings = settings
        settings.directory.mkdir(parents=True, exist_ok=True)
        host, directory = _reachable(settings.host), settings.directory
        self.ledger = (
            None
            if settings.ledger is None
            else OwnLedger(settings.ledger, directory=directory, host=settings.host, reachable=host)
        )
        redis_url = settings.redis_url if self.ledger is None else self.ledger.url
        self._is_gpu_shared = redis_url is not None
        admin_key = secrets.token_urlsafe(24)  # for the frontend alone, where it loads and unloads
        self.triton_log = directory / "triton.log"
        self.triton_log.unlink(missing_ok=True)
        server = tritonserver.find(directory.resolve())
        self.server_id = f"imajin-aesthetic@{socket.gethostname()}:{settings.triton.http}"
        self.triton = Supervised(
            "Triton",
            server.command(
                settings.repository.resolve(),
                host=settings.host,
                ports=settings.triton,
                admin_key=admin_key,
                server_id=self.server_id,
                # On a shared GPU the frontend loads the network once the ledger grants the memory.
                models=(PREPROCESS,) if self._is_gpu_shared else MODELS,
            ),
            server.environment,
            self.triton_log,
            clean_up=partial(tritonserver.remove_regions, self.server_id),
        )
        environment = {
            "AESTHETIC_HOST": settings.host,
            "AESTHETIC_PORT": str(settings.port),
            "AESTHETIC_TRITON_URL": f"{host}:{settings.triton.http}",
            "AESTHETIC_MODEL_REPOSITORY": str(settings.repository.resolve()),
        }
        if redis_url is not None:
            environment |= {
                "AESTHETIC_REDIS_URL": redis_url,
                "AESTHETIC_TRITON_ADMIN_KEY": admin_key,
            }
        if self.ledger is not None:
            environment["AESTHETIC_GPU"] = self.ledger.gpu
        self.frontend = Supervised(
            "the frontend", [sys.executable, "-m", "frontend"], environment, settings.frontend_log
        )

    async def run(self) -> None:
        """Start all, say where they are, keep them alive until SIGINT or SIGTERM, leave nothing behind.

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
            alive = [asyncio.create_task(part.keep_alive(_complain)) for part in self._parts]
            if self.ledger is not None:
                alive.append(asyncio.create_task(self.ledger.keep_told()))
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
        """End all when the block ends, however it ends."""
        try:
            yield
        finally:
            for part in reversed(self._parts):  # each finishes what the earlier ones are still needed for
                await part.stop()

    async def start(self) -> None:
        """Start all and return when the frontend is ready.

        Raises:
            LocalError: something is missing or taken, or one of them does not start.
        """
        _check_published(self.settings.repository)
        _check_ports(self.settings)
        tritonserver.remove_regions(self.server_id)  # of a stack that was killed; nobody listens on its ports
        tritonserver.check_shared_memory()
        started = time.monotonic()
        if self.ledger is not None:
            _say("starting Redis …")
            await self.ledger.redis.start()
            await self._wait(self.ledger.is_told, self.ledger.redis, started)
        if self._is_gpu_shared:
            tritonserver.compile_models(self.settings.repository)
        _say("starting Triton …")
        await self.triton.start()
        triton_url = f"http://{_reachable(self.settings.host)}:{self.settings.triton.http}/v2/health/ready"
        await self._wait(partial(_answers, triton_url), self.triton, started)
        _say("starting the frontend …")
        await self.frontend.start()
        # Ready means that a real one-pixel image was scored, or that a first request would be: it has the
        # model loaded where the GPU is shared.
        await self._wait(partial(_answers, f"{self.url}/health/ready"), self.frontend, started)
        _say(f"ready after {time.monotonic() - started:.1f} s")

    @property
    def _parts(self) -> list[Supervised]:
        """In the order in which they start."""
        redis = [] if self.ledger is None else [self.ledger.redis]
        return [*redis, self.triton, self.frontend]

    async def _wait(self, is_ready: Callable[[], Awaitable[bool]], part: Supervised, started: float) -> None:
        suspects: frozenset[int] = frozenset()
        while not await is_ready():
            # Triton does not end when a stub dies at its start: it waits. It buries those that it ends itself.
            dead = frozenset() if self.triton.pid is None else dead_stubs(self.triton.pid)
            if suspects & dead:
                raise StartFailed(
                    f"Triton's Python process died at its start: {_last_words(self.triton_log)}"
                )
            suspects = dead
            for each in self._parts:
                if each.exit_status is not None:
                    at_once = f" at once (status {each.exit_status})" if each is part else ""
                    reason = "see its messages above" if each.log is None else _last_error(each.log)
                    raise StartFailed(f"{each.name} ended{at_once}: {reason}")
            if time.monotonic() - started > self.settings.ready_timeout_s:
                raise StartFailed(
                    f"{part.name} is not ready after {self.settings.ready_timeout_s:g} s; "
                    f"see {part.log or self.triton_log}"
                )
            await asyncio.sleep(_POLL_S)

    @property
    def url(self) -> str:
        """Where the REST door is reached from this machine."""
        return f"http://{_reachable(self.settings.host)}:{self.settings.port}"

    def _addresses(self) -> str:
        host, ports = _reachable(self.settings.host), self.settings.triton
        lines = [
            f"REST      {self.url}  (documentation: /docs)",
            f"Triton    http://{host}:{ports.http}, gRPC {host}:{ports.grpc}, metrics {host}:{ports.metrics}",
        ]
        if self.ledger is not None:
            lines += [
                f"Ledger    redis://{self.ledger.address}, with its password in {self.ledger.url_file}",
                f"          {self.ledger.gpu}: {self.ledger.origin}",
                f"          MODEL_BOSS_REDIS_URL=$(cat {self.ledger.url_file}) python -m model_boss status",
            ]
        lines += [
            f"Log       {self.triton_log}",
            "Ctrl-C ends both." if self.ledger is None else "Ctrl-C ends all.",
        ]
        return "\n".join(lines)


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
    if settings.ledger is not None:
        wanted["--redis-port"] = settings.ledger.port
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


async def _answers(url: str) -> bool:
    return await asyncio.to_thread(_is_200, url)


def _is_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 - our own http address
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _last_error(log: Path) -> str:
    """Return the most telling line of a log: why Triton did not load a model, else the last error, else the last."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [line for line in lines if line.startswith(("E", "error")) and _HARMLESS not in line]
    loading = [line for line in errors if "failed to load" in line]
    line = (loading[:1] or errors[-1:] or lines[-1:] or ["it wrote nothing"])[0]
    message = line.split("] ", 1)[-1].strip('" ')
    # Triton writes line ends as "\\n"; what follows this one is a traceback.
    message = message.partition(r"\n\nAt:")[0]
    return f"{message} (log: {log})"


def _last_words(log: Path) -> str:
    """Return the last line of a log that Triton itself did not write: a dying stub's, or the dynamic loader's."""
    lines = log.read_text(errors="replace").splitlines()
    words = [line for line in lines if line.strip() and not _OF_TRITON.match(line)]
    return f"{words[-1].strip()} (log: {log})" if words else f"it wrote nothing; see {log}"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is what the person at the terminal reads


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - likewise
