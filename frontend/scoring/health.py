"""Whether the service can score: a monitor finds out in the background, and callers read that.

The monitor sends one grey pixel the same way as a request, unless a real request has just been
scored. Triton's own callers count, too: while their images are being scored, the pixel would only
wait behind them.

On a shared GPU it neither loads the model nor keeps it. While the model is not loaded, "ready"
means that a request could have it loaded. A loaded model without requests is not run, because every
run would count as use.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

from PIL import Image

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded, ServiceError
from frontend.gpu.keeper import State
from frontend.scoring.background import Background
from reward.preprocess import prepare
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from frontend.gpu.keeper import Keeper
    from frontend.images.decode import DecodePool
    from frontend.triton.client import TritonClient
    from frontend.triton.served import ServedVersion

_LOG: Final = logging.getLogger("imajin_aesthetic.health")
_PAUSE_S: Final = 1.0
_PAUSE_FACTOR: Final = 10.0
"""A slow probe is repeated less often, so that probing takes at most a tenth of the machine."""
_IN_USE_S: Final = 5.0
PARTS: Final = ("decode", "triton", "model", "gpu", "canary", "shadow")


@dataclass(frozen=True)
class Health:
    """The state of each part: None if it is well, else what is wrong, in public words."""

    decode: str | None = None
    triton: str | None = None
    model: str | None = None
    gpu: str | None = None
    frontend: str | None = None
    beside: Mapping[str, str | None] = field(default_factory=dict)
    """What is wrong with the canary and the shadow, if any; requests are scored without them, too.
    """

    @property
    def ready(self) -> bool:
        """Tell whether a request would be scored."""
        parts = (self.decode, self.triton, self.model, self.gpu, self.frontend)
        return all(trouble is None for trouble in parts)


def pause_s(health: Health, took_s: float) -> float:
    """Return how long to wait before the next look: after trouble it is always a second."""
    return max(_PAUSE_S, _PAUSE_FACTOR * took_s) if health.ready else _PAUSE_S


class HealthMonitor(Background):
    """Publish `health`; use as an async context manager."""

    def __init__(
        self, pool: DecodePool, client: TritonClient, keeper: Keeper | None = None, *, timeout_s: float
    ) -> None:
        """Prepare; a part that does not answer within `timeout_s` fails."""
        self.health = Health(triton="nothing is known yet")
        self._pool = pool
        self._client = client
        self._keeper = keeper
        self._timeout_s = timeout_s
        self._request_failed = asyncio.Event()
        self._ending: str | None = None
        self._scored: dict[str, int] = {}  # version -> its images so far, as of the last look
        image = io.BytesIO()
        Image.new("RGB", (1, 1), (128, 128, 128)).save(image, "PNG")
        self._pixel = image.getvalue()
        self._pixels = prepare(self._pixel).pixels

    async def __aenter__(self) -> Self:
        self._client.on_failure = self._request_failed.set
        return await super().__aenter__()

    def is_failing(self, part: str) -> bool:
        """Tell whether the last look found a part failing."""
        return {**vars(self.health), **self.health.beside}.get(part) is not None

    async def look(self) -> None:
        """Look at every part, and publish what was found."""
        decode, health = await asyncio.gather(self._decoder_trouble(), self._ask_triton())
        self.health = replace(health, decode=decode, frontend=self._ending)

    def say_it_ends(self) -> None:
        """Be not ready from now on: this process ends soon."""
        self._ending = "it is about to end"
        self.health = replace(self.health, frontend=self._ending)

    async def _watch(self) -> None:
        while True:
            started = time.monotonic()
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - this task's outermost frame: an old state must not stay
                _LOG.exception("the health monitor failed")
                self.health = Health(decode="the health monitor failed")
            self._request_failed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s(self.health, time.monotonic() - started)):
                    # A failed request is newer than a good state, so it ends the pause.
                    await (self._request_failed.wait() if self.health.ready else asyncio.Event().wait())

    async def _decoder_trouble(self) -> str | None:
        try:
            await self._pool.decode(self._pixel, timeout_s=self._timeout_s)
        except DeadlineExceeded:
            return None  # every worker is busy; one that hangs is replaced by the pool itself
        except ServiceError as error:
            return error.detail
        return None

    async def _ask_triton(self) -> Health:
        deadline = Deadline.after(self._timeout_s)
        keeper = self._keeper
        if keeper is not None and keeper.state is State.LOADING:
            return Health()  # Triton hardly answers meanwhile
        gpu = None if keeper is None else await keeper.find_trouble()
        started = time.monotonic()
        try:
            served = await self._client.served(deadline)
        except ServiceError as error:  # or only busy: others were scored meanwhile
            is_busy = self._client.has_succeeded_since(started)
            return Health(triton=None if is_busy else error.detail, gpu=gpu)
        beside: dict[str, str | None] = {**served.troubles}
        if keeper is not None and not keeper.is_in_use(_IN_USE_S):
            return Health(gpu=gpu, beside=beside)
        found = await asyncio.gather(*(self._probe(version, deadline) for version in served.versions))
        beside |= {
            version.role: trouble for version, trouble in zip(served.versions[1:], found[1:], strict=True)
        }
        return Health(model=found[0], gpu=gpu, beside=beside)

    async def _probe(self, version: ServedVersion, deadline: Deadline) -> str | None:
        """Score a pixel by a version unless it has just scored; return why that failed."""
        if self._client.has_succeeded_within(_PAUSE_S, version):
            return None
        if await self._scored_more(version):
            return None
        started = time.monotonic()
        tokens = tokenise([""])
        try:
            await self._client.score(
                self._pixels[None],
                tokens.input_ids,
                tokens.attention_mask,
                version=version,
                deadline=deadline,
            )
        except ServiceError as error:
            is_busy = self._client.has_succeeded_since(started, version) or await self._scored_more(version)
            return None if is_busy else error.detail
        if version.version in self._scored:
            self._scored[version.version] += 1  # the pixel
        return None

    async def _scored_more(self, version: ServedVersion) -> bool:
        """Tell whether Triton has scored images by a version since it was last asked this."""
        scored = await self._client.inferences(version)
        before = self._scored.pop(version.version, None)
        if scored is not None:
            self._scored[version.version] = scored
        return scored is not None and before is not None and scored > before
