"""One part of the service alone, for a container that is started again whenever it ends.

    python -m local triton      in the container of Triton
    python -m local frontend    in the container of a frontend

`local up` starts again what dies or no longer works. In a container that is the work of whoever
runs it, and he sees only that the container ends. So this ends with its part, and ends a part that
lives and does not work.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from PIL import Image

from local import tritonserver
from local.device import check_device
from local.errors import LocalError
from local.hidden_arguments import hide
from local.http_call import http_call
from local.stack import check_published
from local.supervised import Supervised
from local.tritonserver import LOOPBACK, Ports
from local.watchdog import OF_FRONTEND, failing_parts, has_dead_stub
from reward.contract import ENSEMBLE, IMAGE, MODELS, NETWORK, PREPROCESS, PROMPT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

LOOK_TIMEOUT_S: Final = 10.0
_PAUSE_S: Final = 1.0
_PAUSE_FACTOR: Final = 10.0
"""A slow look is repeated less often, so that looking takes at most a tenth of the machine."""


@dataclass(frozen=True)
class Patience:
    """How long a part may not work before it is ended."""

    start_s: float = 300.0
    """Until it works for the first time."""
    unready_s: float = 60.0
    """At any time later."""


@dataclass(frozen=True)
class TritonSettings:
    """What `local triton` was asked for."""

    repository: Path
    directory: Path
    """For the composed backend directory, and for the file `works`, which is touched at every look
    that found Triton working: the container's health check reads its age.
    """
    admin_key_file: Path
    host: str = LOOPBACK
    ports: Ports = field(default_factory=Ports)
    server_id: str = ""
    """Of the lease on a shared GPU; empty means that it is made of the machine's name."""
    is_gpu_shared: bool = False
    """Whether a frontend loads the network, once the ledger of GPU memory grants it."""
    patience: Patience = field(default_factory=Patience)
    otlp_url: str | None = None
    """Where Triton sends its spans of requests that the frontend traces; None means nowhere."""


async def run_triton(settings: TritonSettings) -> None:
    """Run one Triton until SIGTERM or SIGINT.

    Raises:
        LocalError: something is missing, or Triton ended, or does not score.
    """
    try:
        admin_key = settings.admin_key_file.read_text().strip()
    except OSError as error:
        raise LocalError(f"{settings.admin_key_file}: {error.strerror}") from error
    check_published(settings.repository)
    check_device(settings.repository, None, is_shared=settings.is_gpu_shared)
    tritonserver.check_shared_memory()
    settings.directory.mkdir(parents=True, exist_ok=True)
    server_id = settings.server_id or f"imajin-aesthetic@{socket.gethostname()}:{settings.ports.http}"
    server = tritonserver.find(settings.directory.resolve())
    command = server.command(
        settings.repository.resolve(),
        host=settings.host,
        http_host=settings.host,
        ports=settings.ports,
        admin_key=admin_key,
        server_id=server_id,
        otlp_url=settings.otlp_url,
        models=(PREPROCESS,) if settings.is_gpu_shared else MODELS,
    )
    shown, hidden = hide(command, admin_key)
    watched = PREPROCESS.name if settings.is_gpu_shared else ENSEMBLE.name
    look = ScoredPixel(f"http://{LOOPBACK}:{settings.ports.http}", watched)
    triton = Supervised(
        "Triton",
        shown,
        {**server.environment, **hidden},
        None,
        is_ready=look,
        clean_up=partial(tritonserver.remove_regions, server_id),
    )
    # Triton 2.51 says that it is ready, and fails every request, where a Python process has died.
    dead = partial(has_dead_stub, triton, pause_s=1.0)
    await run_alone(triton, settings.patience, has_lost=dead, on_works=(settings.directory / "works").touch)


async def run_frontend(patience: Patience) -> None:
    """Run one frontend, which reads its own settings, until SIGTERM or SIGINT.

    Raises:
        LocalError: it ended, or does not answer, or cannot decode images. Where Triton or the
            ledger is away, it is left alone.
    """
    port = os.environ.get("AESTHETIC_PORT") or "8006"
    url = f"http://{LOOPBACK}:{port}/health/ready"

    async def works() -> bool:
        answer = await asyncio.to_thread(http_call, url, timeout_s=LOOK_TIMEOUT_S)
        return not failing_parts(*answer) & OF_FRONTEND

    command = [sys.executable, "-m", "frontend"]
    await run_alone(Supervised("the frontend", command, {}, None, is_ready=works), patience)


async def run_alone(
    part: Supervised,
    patience: Patience,
    *,
    has_lost: Callable[[], Awaitable[bool]] | None = None,
    on_works: Callable[[], None] = lambda: None,
) -> None:
    """Start a part and stay until SIGTERM or SIGINT, then end it.

    Args:
        part: what is run; its `is_ready` tells whether it works.
        patience: how long it may not work.
        has_lost: tells that it has lost what it does not get back, and is to end at once.
        on_works: called at every look that found it working.

    Raises:
        LocalError: the part ended by itself, or did not work for too long.
    """
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, lambda: this.cancelling() or this.cancel())
    with suppress(asyncio.CancelledError):
        try:
            await part.start()
            await _watch(part, patience, has_lost, on_works)
        finally:
            await part.stop()


async def _watch(
    part: Supervised,
    patience: Patience,
    has_lost: Callable[[], Awaitable[bool]] | None,
    on_works: Callable[[], None],
) -> None:
    limit_s, unready_s, looked_s = patience.start_s, 0.0, time.monotonic()
    while True:
        if part.exit_status is not None:
            raise LocalError(f"{part.name} ended (status {part.exit_status})")
        if has_lost is not None and await has_lost():
            raise LocalError(f"{part.name} has lost one of its processes: it is ended")
        started_s = time.monotonic()
        if await part.is_ready():
            limit_s, unready_s = patience.unready_s, 0.0
            on_works()
        else:
            # Count at most the time that a look takes: this process itself may have been stopped.
            unready_s += min(started_s - looked_s, LOOK_TIMEOUT_S + _PAUSE_S)
        if unready_s > limit_s:
            raise LocalError(f"{part.name} lives but does not work after {unready_s:.0f} s: it is ended")
        looked_s = started_s
        took_s = time.monotonic() - started_s
        await asyncio.sleep(min(max(_PAUSE_S, _PAUSE_FACTOR * took_s), LOOK_TIMEOUT_S))


class ScoredPixel:
    """A look at Triton: a picture of one pixel goes through one of its models."""

    def __init__(self, url: str, model: str) -> None:
        """Prepare a look at `model` of the Triton at `url`; the model takes IMAGE and PROMPT."""
        self._url = url
        self._model = model
        self._scored = 0
        picture = io.BytesIO()
        Image.new("RGB", (1, 1), (128, 128, 128)).save(picture, "PNG")
        element = len(picture.getvalue()).to_bytes(4, "little") + picture.getvalue()
        inputs: list[dict[str, object]] = [
            {"name": IMAGE.name, "parameters": {"binary_data_size": len(element)}},
            {"name": PROMPT.name, "data": [""]},
        ]
        one = {"shape": [1, 1], "datatype": "BYTES"}
        head = json.dumps({"inputs": [{**each, **one} for each in inputs]}).encode()
        self._body = head + element
        self._headers = {"Inference-Header-Content-Length": str(len(head))}

    async def __call__(self) -> bool:
        """Tell whether the picture was answered, or others' were since the last look.

        Under overload Triton may refuse the picture, and still works.
        """
        status, _ = await asyncio.to_thread(
            http_call,
            f"{self._url}/v2/models/{self._model}/infer",
            self._body,
            headers=self._headers,
            timeout_s=LOOK_TIMEOUT_S,
        )
        return status == 200 or await asyncio.to_thread(self._has_scored_more)

    def _has_scored_more(self) -> bool:
        url = f"{self._url}/v2/models/{NETWORK.name}/stats"
        _, answer = http_call(url, timeout_s=LOOK_TIMEOUT_S)
        with suppress(ValueError, LookupError, TypeError):
            entries = json.loads(answer)["model_stats"]
            before = self._scored
            self._scored = sum(int(entry["inference_stats"]["success"]["count"]) for entry in entries)
            return 0 < before < self._scored
        return False
