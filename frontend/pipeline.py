"""One request from its sources to its scores: admission, images, tokens, cache, Triton."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from frontend.cache import Key, ScoreCache
from frontend.errors import DeadlineExceeded, InvalidRequest, ServiceError
from reward.errors import InvalidPrompt
from reward.tokenise import Tokens, tokenise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frontend.admission import Admission
    from frontend.deadline import Deadline
    from frontend.decode import Decoded
    from frontend.images import ImageLoader, Source
    from frontend.metrics import Metrics
    from frontend.scorer import Scorer, Served


@dataclass(frozen=True)
class Judgement:
    """One image and its score."""

    image: Decoded
    raw_score: float
    cached: bool


@dataclass(frozen=True)
class Verdict:
    """The answer to one request, in the order of its images."""

    images: list[Judgement | ServiceError]
    prompt_tokens: int
    prompt_truncated: bool
    served: Served


class Pipeline:
    """What every request passes; shared by all of them."""

    def __init__(
        self, admission: Admission, loader: ImageLoader, scorer: Scorer, cache: ScoreCache, metrics: Metrics
    ) -> None:
        self._admission = admission
        self._loader = loader
        self._scorer = scorer
        self._cache = cache
        self._metrics = metrics

    async def judge(
        self, prompt: str, sources: Sequence[Source], *, deadline: Deadline, request_id: str
    ) -> Verdict:
        """Score one prompt's images, all that decode in a single request to Triton.

        Raises:
            ServiceError: whatever concerns the whole request; an image's own failure stands in its place.
        """
        try:
            tokens = tokenise([prompt])
        except InvalidPrompt as error:
            raise InvalidRequest(f"prompt: {error}") from error
        arrived = time.perf_counter()
        async with self._admission.admit(len(sources), deadline):
            self._metrics.stage_seconds.labels("queue").observe(time.perf_counter() - arrived)
            served = await self._scorer.served(deadline)  # before any work is done for nothing
            images = await self._loader.load(sources, deadline)
            for image in images:
                if isinstance(image, DeadlineExceeded):  # the request's own: no image is in time any more
                    raise image
            decoded = [image for image in images if not isinstance(image, ServiceError)]
            judged = iter(await self._score(prompt, tokens, decoded, served, deadline, request_id))
        return Verdict(
            images=[image if isinstance(image, ServiceError) else next(judged) for image in images],
            prompt_tokens=int(tokens.lengths[0]),
            prompt_truncated=bool(tokens.truncated[0]),
            served=served,
        )

    async def _score(
        self,
        prompt: str,
        tokens: Tokens,
        images: list[Decoded],
        served: Served,
        deadline: Deadline,
        request_id: str,
    ) -> list[Judgement]:
        weights, preprocessing = served.manifest.checkpoint_sha256, served.manifest.preprocessing
        keys = [Key(image.sha256, prompt, weights, preprocessing) for image in images]
        known = {key: score for key in keys if (score := self._cache.get(key)) is not None}
        self._metrics.cache.labels("hit").inc(sum(key in known for key in keys))
        # The same picture twice in a batch is scored once.
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
        scores = dict(known)
        if missing:
            self._metrics.cache.labels("miss").inc(len(missing))
            self._metrics.batch_images.observe(len(missing))
            with self._metrics.stage("infer"):
                rewards = await self._scorer.score(
                    np.stack([image.pixels for image in missing.values()]),
                    np.repeat(tokens.input_ids, len(missing), axis=0),
                    np.repeat(tokens.attention_mask, len(missing), axis=0),
                    served=served,
                    deadline=deadline,
                    request_id=request_id,
                )
            for key, reward in zip(missing, rewards, strict=True):
                self._cache.put(key, reward)
                self._metrics.raw_score.observe(reward)
                scores[key] = reward
        return [Judgement(image, scores[key], key in known) for key, image in zip(keys, images, strict=True)]
