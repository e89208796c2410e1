"""Triton and the frontend, with a ledger of GPU memory if asked for, from start to orderly end."""

from __future__ import annotations

import asyncio
import compileall
import json
import os
import re
import secrets
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local import tritonserver
from local.console import complain, say
from local.device import check_device
from local.errors import LocalError
from local.hidden_arguments import hide
from local.http_call import http_call
from local.ledger import LedgerSettings, OwnLedger
from local.private_file import read_or_make_key, write_private
from local.supervised import Supervised, keep_running
from local.tritonserver import LOOPBACK, Ports
from local.watchdog import has_dead_stub, watch
from reward import deployment
from reward.contract import MODELS, NETWORK, PREPROCESS
from reward.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

_POLL_S: Final = 0.2
_ANSWER_TIMEOUT_S: Final = 10.0
_HARMLESS: Final = "CudaDriverHelper has not been initialized"
"""The error of Triton on every machine without a GPU driver; Triton goes on all the same."""

_OF_TRITON: Final = re.compile(r"[IWEF]\d{4} |[|+]")
"""The beginning of Triton's own lines: level and date, or the frame of a table."""


@dataclass(frozen=True)
class StackSettings:
    """What `local up` was asked for."""

    repository: Path
    directory: Path
    """The directory for logs and for the composed backend directory."""
    host: str = LOOPBACK
    port: int = 8006
    triton: Ports = field(default_factory=Ports)
    triton_host: str = LOOPBACK
    """The address of Triton's gRPC, which has no keys; Triton's other ports stay on this machine.
    """
    device: str | None = None
    """`cpu` or `gpu`: where the model must be deployed; None takes what is deployed."""
    ready_timeout_s: float = 300.0
    unready_limit_s: float = 60.0
    """How long the service may be unready before the process that fails is restarted."""
    frontend_log: Path | None = None
    """None means standard error."""
    ledger: LedgerSettings | None = None
    """Settings of a Redis to be started, through which the frontend then shares the GPU."""
    redis_url: str | None = None
    """The URL of a ledger that exists already, if none is started; None means no sharing."""
    otlp_url: str | None = None
    """Where Triton sends its spans of requests that the frontend traces; None means nowhere."""
    admin_key_file: Path | None = None
    """A file with the key of Triton's administration, made if it is not there; None means a key
    that nobody is told.
    """


class Stack:
    """One supervised Triton and frontend, and one Redis if asked for."""

    def __init__(self, settings: StackSettings) -> None:
        self.settings = settings
        settings.directory.mkdir(parents=True, exist_ok=True)
        reachable = _reachable(settings.host)
        self.url = f"http://{reachable}:{settings.port}"
        self.triton_url = f"{LOOPBACK}:{settings.triton.http}"
        self.triton_grpc_url = f"{_reachable(settings.triton_host)}:{settings.triton.grpc}"
        self.server_id = f"imajin-aesthetic@{socket.gethostname()}:{settings.triton.http}"
        key_file = settings.admin_key_file
        # Of who loads and unloads, and of callers who share memory with Triton.
        self._admin_key = read_or_make_key(key_file) if key_file else secrets.token_urlsafe(24)
        self.ledger: OwnLedger | None = None
        if settings.ledger is not None:
            self.ledger = OwnLedger(
                settings.ledger, directory=settings.directory, host=settings.host, reachable=reachable
            )
        self._redis_url = self.ledger.url if self.ledger else settings.redis_url
        self._triton_log = settings.directory / "triton.log"
        self.triton = self._make_triton()
        self.frontend = self._make_frontend()
        # In the order in which they start. Each needs the earlier ones until it has ended.
        self._parts = [*([self.ledger.redis] if self.ledger else []), self.triton, self.frontend]

    async def run(self) -> None:
        """Start all, say where they are, keep them alive until SIGINT or SIGTERM, end all.

        Raises:
            LocalError: something is missing or taken, or one of them does not start.
        """
        this = asyncio.current_task()
        assert this is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            # Only the first signal counts: the end itself must not be interrupted.
            asyncio.get_running_loop().add_signal_handler(number, lambda: this.cancelling() or this.cancel())
        with suppress(asyncio.CancelledError):
            async with self.running(), asyncio.TaskGroup() as group:
                say("\n".join(self._addresses()))
                watchdog = partial(
                    watch,
                    self.triton,
                    self.frontend,
                    f"{self.url}/health/ready",
                    complain,
                    unready_limit_s=self.settings.unready_limit_s,
                    start_limit_s=self.settings.ready_timeout_s,
                )
                work = {"the watchdog": watchdog}
                for part in self._parts:
                    work[f"the supervision of {part.name}"] = partial(part.keep_alive, complain)
                if self.ledger is not None:
                    work["the ledger's reminder"] = partial(self.ledger.keep_told)
                for name, never_ends in work.items():
                    group.create_task(keep_running(name, never_ends, complain))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have all running while the block runs; the block begins when the frontend is ready.

        Raises:
            LocalError: something is missing or taken, or one of them does not start.
        """
        check_published(self.settings.repository)
        check_device(self.settings.repository, self.settings.device, is_shared=self._redis_url is not None)
        _check_ports(self.settings)
        # These are left from a stack that was killed: nobody listens on its ports.
        tritonserver.remove_regions(self.server_id)
        tritonserver.check_shared_memory()
        compile_models(self.settings.repository)
        started_s = time.monotonic()
        async with AsyncExitStack() as stack:
            stack.enter_context(self._note())
            for part in self._parts:
                say(f"starting {part.name} …")
                stack.push_async_callback(part.stop)
                await part.start()
                await self._wait_for(part, started_s)
            say(f"ready after {time.monotonic() - started_s:.1f} s")
            yield

    @contextmanager
    def _note(self) -> Iterator[None]:
        """Note where Triton is while the block runs, for this user's `python -m export promote`."""
        path = deployment.running_path(self.settings.repository)
        note = {"pid": os.getpid(), "triton_url": self.triton_url, "admin_key": self._admin_key}
        note["triton_grpc_url"] = self.triton_grpc_url
        note["repository"] = str(self.settings.repository.resolve())
        note["environment"] = {**_of_the_ledger(os.environ), **self._sharing}
        try:
            path.parent.mkdir(exist_ok=True)
            write_private(path, json.dumps(note) + "\n")
        except OSError as error:
            complain(
                f"{path} cannot be written ({error.strerror}): a promotion takes effect at the next start"
            )
        try:
            yield
        finally:
            with suppress(OSError, ValueError):
                if json.loads(path.read_text()) == note:  # another's stays
                    path.unlink()

    @property
    def _sharing(self) -> dict[str, str]:
        """Who gives out the GPU's memory, as the frontend is told; promotions need this, too."""
        told = {} if self._redis_url is None else {"AESTHETIC_REDIS_URL": self._redis_url}
        return told if self.ledger is None else {**told, "AESTHETIC_GPU": self.ledger.gpu}

    def _make_triton(self) -> Supervised:
        settings = self.settings
        server = tritonserver.find(settings.directory.resolve())
        command = server.command(
            settings.repository.resolve(),
            host=settings.triton_host,
            ports=settings.triton,
            admin_key=self._admin_key,
            server_id=self.server_id,
            # On a shared GPU the frontend loads the network once the ledger grants the memory.
            models=MODELS if self._redis_url is None else (PREPROCESS,),
            otlp_url=settings.otlp_url,
        )
        shown, hidden = hide(command, self._admin_key)
        return Supervised(
            "Triton",
            shown,
            {**server.environment, **hidden},
            self._triton_log,
            is_ready=partial(_is_200, f"http://{self.triton_url}/v2/health/ready"),
            clean_up=partial(tritonserver.remove_regions, self.server_id),
        )

    def _make_frontend(self) -> Supervised:
        settings = self.settings
        environment = {
            "AESTHETIC_HOST": settings.host,
            "AESTHETIC_PORT": str(settings.port),
            "AESTHETIC_TRITON_URL": self.triton_url,
            "AESTHETIC_MODEL_REPOSITORY": str(settings.repository.resolve()),
        }
        if self._redis_url is not None:
            environment |= {**self._sharing, "AESTHETIC_TRITON_ADMIN_KEY": self._admin_key}
        command = [sys.executable, "-m", "frontend"]
        # "Ready" means that an image of one pixel was scored. On a shared GPU it means that a first
        # request would have the model loaded.
        is_ready = partial(_is_200, f"{self.url}/health/ready")
        return Supervised("the frontend", command, environment, settings.frontend_log, is_ready=is_ready)

    async def _wait_for(self, part: Supervised, started_s: float) -> None:
        while not await part.is_ready():
            if await has_dead_stub(self.triton, pause_s=_POLL_S):  # Triton would wait on
                raise LocalError(f"Triton's Python process died at its start: {_reason(self._triton_log)}")
            for each in self._parts:
                if each.exit_status is not None:
                    at_once = f" at once (status {each.exit_status})" if each is part else ""
                    raise LocalError(f"{each.name} ended{at_once}: {_reason(each.log)}")
            if time.monotonic() - started_s > self.settings.ready_timeout_s:
                raise LocalError(
                    f"{part.name} is not ready after {self.settings.ready_timeout_s:g} s; "
                    f"see {part.log or self._triton_log}"
                )

    def _addresses(self) -> Iterator[str]:
        metrics = f"{LOOPBACK}:{self.settings.triton.metrics}"
        yield f"REST      {self.url}  (in a browser: a playground; documentation: /docs)"
        yield f"Triton    http://{self.triton_url}, gRPC {self.triton_grpc_url}, metrics {metrics}"
        if self.ledger is not None:
            file = self.ledger.url_file
            yield f"Ledger    redis://{self.ledger.address}, with its password in {file}"
            yield f"          {self.ledger.gpu}: {self.ledger.origin}"
            yield f"          MODEL_BOSS_REDIS_URL=$(cat {file}) python -m model_boss status"
        yield f"Log       {self._triton_log}"
        yield from self._warnings()
        yield f"Ctrl-C ends {'all' if self.ledger else 'both'}."

    def _warnings(self) -> Iterator[str]:
        if not _is_loopback(self.settings.triton_host):
            yield "          Triton's gRPC door is open; it has no keys (SECURITY.md)"
        elif not _is_loopback(self.settings.host):
            yield "          Triton's doors stay on this machine; --triton-host opens gRPC, which has no keys"
        if self._admin_key.encode() in Path(f"/proc/{self.triton.pid}/cmdline").read_bytes():
            yield (
                "Warning   every user of this machine can read Triton's administration key (ps), for this "
                "system lets no process attach to another; see SECURITY.md"
            )


def compile_models(repository: Path) -> None:
    """Write the bytecode of every version's `model.py` before Triton loads it.

    Otherwise Python writes it while Triton loads the model for the first time. To Triton 2.51 that
    is a change of the model. The next load would then load it anew beside the first, in twice the
    memory.
    """
    # If it may not write here, Triton may not, either.
    compileall.compile_dir(repository / NETWORK.name, quiet=2)


def check_published(repository: Path) -> None:
    """Refuse to go on without a published version.

    Raises:
        LocalError: there is none, or what is said to be served is not there.
    """
    try:
        found = deployment.published(repository)
    except VersionError as error:
        raise LocalError(str(error)) from error
    if not found:
        raise LocalError(
            f"no model is published in {repository}: run 'make up' (without a network 'make up MODEL=demo'), "
            "'make up CHECKPOINT=path/to/ImageReward.pt', "
            "or 'python -m export publish --checkpoint FILE --name NAME'"
        )


def _check_ports(settings: StackSettings) -> None:
    wanted = [
        (f"--triton-{door}-port", settings.triton_host if door == "grpc" else LOOPBACK, port)
        for door, port in asdict(settings.triton).items()
    ]
    wanted.append(("--port", settings.host, settings.port))
    if settings.ledger is not None:
        wanted.append(("--redis-port", settings.host, settings.ledger.port))
    for option, host, port in wanted:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise LocalError(
                    f"{host}:{port} cannot be used ({error.strerror}); choose another with {option}"
                ) from error


def _reachable(host: str) -> str:
    """Return the address by which this machine reaches a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _is_200(url: str) -> bool:
    status, _ = await asyncio.to_thread(http_call, url, timeout_s=_ANSWER_TIMEOUT_S)
    return status == 200


def _reason(log: Path | None) -> str:
    """Return the most telling line of the log of a server that failed."""
    if log is None:
        return "see its messages above"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E", "error")) and _HARMLESS not in line]
    not_loaded = [line for line in errors if "failed to load" in line]
    others = [line for line in lines if not _OF_TRITON.match(line)]
    line = (not_loaded[:1] or errors[-1:] or others[-1:] or ["it gave no reason"])[0]
    message = line.split("] ", 1)[-1].strip('" ')
    # Triton writes line ends as "\\n"; a traceback follows this one.
    message = message.partition(r"\n\nAt:")[0]
    return f"{message} (log: {log})"


def _of_the_ledger(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the frontend's variables that say how it shares a GPU."""
    prefixes = ("AESTHETIC_REDIS_URL", "AESTHETIC_GPU", "AESTHETIC_VRAM_MB", "AESTHETIC_MODEL_BOSS")
    return {name: value for name, value in environment.items() if name.startswith(prefixes)}
