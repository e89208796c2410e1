"""The scores of one version: from the cache, from a request that asks already, or from Triton."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from frontend.deadline import Deadline
from frontend.scoring.flights import Flights
from frontend.triton.errors import NotLoaded, TritonError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from frontend.gpu.keeper import Keeper
    from frontend.metrics import Metrics
    from frontend.scoring.cache import Question, ScoreCache
    from frontend.triton.client import TritonClient
    from frontend.triton.served import ServedVersion
    from reward import PreparedImage


@dataclass(frozen=True)
class ScoredImage:
    """One image, its score, and the version that gave it."""

    image: PreparedImage
    raw_score: float
    version: ServedVersion
    cached: bool


@dataclass(frozen=True)
class Asker:
    """For whom Triton is asked."""

    request_id: str
    deadline: Deadline


class Scorer:
    """Shared by all requests."""

    def __init__(
        self, client: TritonClient, cache: ScoreCache, metrics: Metrics, keeper: Keeper | None = None
    ) -> None:
        self._client = client
        self._cache = cache
        self._metrics = metrics
        self._keeper = keeper
        self._flights = Flights()

    async def score(
        self,
        questions: Sequence[Question],
        version: ServedVersion,
        asker: Asker,
        *,
        max_wait_s: float = math.inf,
    ) -> list[ScoredImage]:
        """Score questions within `max_wait_s`; all new ones are one request to Triton.

        Raises:
            TritonError: Triton gives no scores.
        """
        keys = [question.key(version) for question in questions]
        known = {key: score for key in keys if (score := self._cache.get(key)) is not None}
        self._metrics.cache.labels("hit").inc(sum(key in known for key in keys))
        # A picture that is twice in a batch is scored once.
        new = {key: one for key, one in zip(keys, questions, strict=True) if key not in known}

        async def ask(keys: Sequence[bytes]) -> dict[bytes, float]:
            return await self._infer([(key, new[key]) for key in keys], version, asker, max_wait_s)

        scores = dict(known)
        if new and self._cache.is_on:
            self._metrics.cache.labels("shared").inc(self._flights.count(list(new)))
            until = Deadline.after(min(asker.deadline.remaining_s(), max_wait_s))
            scores |= await self._flights.score(list(new), ask, until)
        elif new:
            scores |= await ask(list(new))
        return [
            ScoredImage(one.image, scores[key], version, cached=key in known)
            for key, one in zip(keys, questions, strict=True)
        ]

    async def _infer(
        self,
        questions: Sequence[tuple[bytes, Question]],
        version: ServedVersion,
        asker: Asker,
        max_wait_s: float,
    ) -> dict[bytes, float]:
        if self._keeper is not None and not self._keeper.is_ready:
            raise NotLoaded("the model is not loaded")  # while it loads, Triton hardly answers
        metrics, name = self._metrics, self._metrics.label(version.version)
        metrics.cache.labels("miss").inc(len(questions))
        metrics.batch_images.labels(name).observe(len(questions))
        try:
            with (
                metrics.stage("infer", version=name, images=len(questions)),
                metrics.infer_seconds.labels(name).time(),
            ):
                rewards = await self._client.score(
                    _stack([question.image.pixels for _, question in questions]),
                    np.concatenate([question.tokens.input_ids for _, question in questions]),
                    np.concatenate([question.tokens.attention_mask for _, question in questions]),
                    version=version,
                    deadline=asker.deadline,
                    max_wait_s=max_wait_s,
                    request_id=asker.request_id,
                )
        except TritonError as error:
            if not (isinstance(error, Unavailable) and self._keeper and self._keeper.explains(error)):
                metrics.version_errors.labels(name, type(error).__name__).inc()
            raise
        if self._keeper is not None:
            self._keeper.note_request()
        scores = {key: reward for (key, _), reward in zip(questions, rewards, strict=True)}
        for key, reward in scores.items():
            self._cache.put(key, reward)
            metrics.raw_score.labels(name).observe(reward)
        return scores


def _stack(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Stack images; one alone is not copied."""
    return images[0][None] if len(images) == 1 else np.stack(images)
