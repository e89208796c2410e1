"""Is the service able to score? Answered by a real one-pixel inference, or by a real request just before.

On a shared GPU a probe neither loads the model nor keeps it: while the model is not loaded, ready means that
a request could have it loaded, and a model that is loaded and unused is not run for a probe, because
whatever runs counts as use.
"""

from __future__ import annotations

import asyncio
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from PIL import Image

from frontend.deadline import Deadline
from frontend.errors import ServiceError
from frontend.gpu.keeper import State
from reward.tokenise import tokenise

if TYPE_CHECKING:
    from frontend.gpu.keeper import Keeper
    from frontend.images.decode import DecodePool
    from frontend.triton.client import Scorer

_FRESH_S: Final = 1.0
_IN_USE_S: Final = 5.0
_FRESH_FACTOR: Final = 10.0
"""A probe that takes long is repeated less often: probing takes a tenth of the machine at most."""


@dataclass(frozen=True)
class Health:
    """The state of each part: None is well, anything else says what is wrong, publicly."""

    decode: str | None
    triton: str | None
    model: str | None
    gpu: str | None = None

    @property
    def ready(self) -> bool:
        """Tell whether a request would be scored."""
        return self.decode is None and self.triton is None and self.model is None and self.gpu is None


@dataclass(frozen=True)
class _Finding:
    health: Health
    at_s: float
    took_s: float
    failures: int
    """Of the scorer, at the time."""


class HealthProbe:
    """Probes the service through the parts that requests use; concurrent askers share one probe."""

    def __init__(
        self, pool: DecodePool, scorer: Scorer, keeper: Keeper | None = None, *, timeout_s: float
    ) -> None:
        self._pool = pool
        self._scorer = scorer
        self._keeper = keeper
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._last: _Finding | None = None
        image = io.BytesIO()
        Image.new("RGB", (1, 1), (128, 128, 128)).save(image, "PNG")
        self._pixel = image.getvalue()

    async def check(self) -> Health:
        """Return the present state, at most about a second old."""
        async with self._lock:
            if self._last is not None and self._is_fresh(self._last):
                return self._last.health
            started = time.monotonic()
            health = await self._probe()
            if self._scorer.succeeded_at_s > started:  # only busy: others were scored meanwhile
                health = Health(decode=health.decode, triton=None, model=None, gpu=health.gpu)
            finished = time.monotonic()
            self._last = _Finding(health, finished, finished - started, self._scorer.failures)
            return health

    def _is_fresh(self, last: _Finding) -> bool:
        if not last.health.ready:
            return time.monotonic() - last.at_s < _FRESH_S
        if self._scorer.failures > last.failures:  # a request has found out since
            return False
        return time.monotonic() - last.at_s < max(_FRESH_S, _FRESH_FACTOR * last.took_s)

    async def _probe(self) -> Health:
        deadline = Deadline.after(self._timeout_s)
        try:
            pixel = await self._pool.decode(self._pixel, timeout_s=self._timeout_s)
        except ServiceError as error:
            return Health(decode=error.detail, triton=None, model=None)
        if self._keeper is not None and self._keeper.state is State.LOADING:
            return Health(decode=None, triton=None, model=None)  # Triton hardly answers meanwhile
        gpu = None if self._keeper is None else await self._keeper.find_trouble()
        try:
            if self._keeper is not None and not self._keeper.is_in_use(_IN_USE_S):
                await self._scorer.promised(deadline)
                return Health(decode=None, triton=None, model=None, gpu=gpu)
            served = await self._scorer.served(deadline)
        except ServiceError as error:
            return Health(decode=None, triton=error.detail, model=None, gpu=gpu)
        tokens = tokenise([""])
        try:
            await self._scorer.score(
                pixel.pixels[None], tokens.input_ids, tokens.attention_mask, served=served, deadline=deadline
            )
        except ServiceError as error:
            return Health(decode=None, triton=None, model=error.detail, gpu=gpu)
        return Health(decode=None, triton=None, model=None, gpu=gpu)
