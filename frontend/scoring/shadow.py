"""The shadow: a version that scores the stable version's questions, too, to be compared.

It is asked in the background, one image at a time, after everybody else (priority 2). So no answer
waits for it or fails with it. If it is too slow, some questions are not compared.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from frontend.deadline import Deadline
from frontend.errors import ServiceError
from frontend.scoring.background import Background
from frontend.scoring.canary import is_in_share
from reward.contract import PRIORITY_BULK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frontend.gpu.keeper import Keeper
    from frontend.metrics import Metrics
    from frontend.scoring.cache import Question
    from frontend.scoring.scorer import ScoredImage
    from frontend.triton.client import TritonClient
    from frontend.triton.served import Served, ServedVersion

_LOG: Final = logging.getLogger("imajin_aesthetic.shadow")
_MAX_WAITING: Final = 64  # images of 150 KB
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class _Comparison:
    question: Question
    stable_score: float
    shadow: ServedVersion


class Shadow(Background):
    """Use as an async context manager."""

    def __init__(self, client: TritonClient, metrics: Metrics, keeper: Keeper | None = None) -> None:
        self._client = client
        self._metrics = metrics
        self._keeper = keeper
        self._waiting: asyncio.Queue[_Comparison] = asyncio.Queue(_MAX_WAITING)

    def offer(self, questions: Sequence[Question], images: Sequence[ScoredImage], served: Served) -> None:
        """Take the questions in the shadow's share that the stable version has just scored."""
        shadow = served.shadow
        if shadow is None:
            return
        for question, image in zip(questions, images, strict=True):
            is_stable = image.version.version == served.stable.version
            if is_stable and not image.cached and is_in_share(question, shadow):
                try:
                    self._waiting.put_nowait(_Comparison(question, image.raw_score, shadow))
                except asyncio.QueueFull:
                    version = self._metrics.label(shadow.version)
                    self._metrics.shadow_images.labels(version, "dropped").inc()

    async def _watch(self) -> None:
        while True:
            comparison = await self._waiting.get()
            try:
                await self._compare(comparison)
            except Exception:  # noqa: BLE001 - this task's outermost frame: the next one may do better
                _LOG.exception("a comparison with the shadow failed")

    async def _compare(self, comparison: _Comparison) -> None:
        question, version = comparison.question, self._metrics.label(comparison.shadow.version)
        if self._keeper is not None and not self._keeper.is_ready:
            self._metrics.shadow_images.labels(version, "dropped").inc()  # a shadow wakes no model
            return
        try:
            (score,) = await self._client.score(
                question.image.pixels[None],
                question.tokens.input_ids,
                question.tokens.attention_mask,
                version=comparison.shadow,
                deadline=Deadline.after(_TIMEOUT_S),
                priority=PRIORITY_BULK,
            )
        except ServiceError as error:
            self._metrics.version_errors.labels(version, type(error).__name__).inc()
            self._metrics.shadow_images.labels(version, "failed").inc()
            return
        self._metrics.shadow_images.labels(version, "compared").inc()
        self._metrics.raw_score.labels(version).observe(score)
        self._metrics.shadow_difference.labels(version).observe(abs(score - comparison.stable_score))
