"""One request from its sources to its scores: admission, tokens, images, cache, the GPU, Triton."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from frontend.errors import DeadlineExceeded, ServiceError
from frontend.scoring.cache import ScoreCache, score_key
from frontend.scoring.errors import PromptInvalid
from frontend.triton.errors import NotLoaded, Unavailable
from reward.errors import InvalidPrompt
from reward.tokenizer import Tokens, tokenise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frontend.deadline import Deadline
    from frontend.gpu.keeper import Keeper
    from frontend.images.sources import ImageLoader, Source
    from frontend.metrics import Metrics
    from frontend.scoring.admission import Admission
    from frontend.triton.client import ServedVersion, TritonClient
    from reward import PreparedImage

_QUICK_CHARACTERS: Final = 256
"""A prompt this long takes a millisecond, whatever it holds; 10,000 characters take up to 40."""


@dataclass(frozen=True)
class ScoredImage:
    """One image and its score."""

    image: PreparedImage
    raw_score: float
    cached: bool


@dataclass(frozen=True)
class ScoreResult:
    """The answer to one request, in the order of its images."""

    images: list[ScoredImage | ServiceError]
    prompt_tokens: int
    prompt_truncated: bool
    served: ServedVersion


class Pipeline:
    """What every request passes; shared by all of them."""

    def __init__(
        self,
        admission: Admission,
        loader: ImageLoader,
        client: TritonClient,
        cache: ScoreCache,
        metrics: Metrics,
        keeper: Keeper | None = None,
    ) -> None:
        self._admission = admission
        self._loader = loader
        self._tokenising = asyncio.Lock()
        self._client = client
        self._cache = cache
        self._metrics = metrics
        self._keeper = keeper

    async def score(
        self, prompt: str, sources: Sequence[Source], *, deadline: Deadline, request_id: str
    ) -> ScoreResult:
        """Score one prompt's images, all that decode in a single request to Triton.

        Raises:
            ServiceError: whatever concerns the whole request; an image's own failure stands in its
                place.
        """
        arrived = time.perf_counter()
        async with self._admission.admit(len(sources), deadline):
            self._metrics.stage_seconds.labels("queue").observe(time.perf_counter() - arrived)
            # Before any work is done for nothing. A model that is not loaded yet is not loaded for
            # pictures that cannot be read, or are known.
            if self._keeper is None or self._keeper.is_ready:
                self._client.check()
            served = await self.served(deadline)
            tokens = await self._tokenise(prompt)
            images = await self._loader.load(sources, deadline)
            for image in images:
                if isinstance(image, DeadlineExceeded):  # the request's own: no image is in time now
                    raise image
            decoded = [image for image in images if not isinstance(image, ServiceError)]
            scored, served = await self._score(_Work(tokens, decoded, deadline, request_id), served)
        in_order = iter(scored)
        return ScoreResult(
            images=[image if isinstance(image, ServiceError) else next(in_order) for image in images],
            prompt_tokens=int(tokens.lengths[0]),
            prompt_truncated=bool(tokens.truncated[0]),
            served=served,
        )

    async def served(self, deadline: Deadline) -> ServedVersion:
        """Say which version is served, or would be once it is loaded.

        Raises:
            Unavailable: Triton is down, or that version is not one that this frontend can use.
        """
        if self._keeper is None:
            return await self._client.served(deadline)
        if self._keeper.is_ready:
            try:
                return await self._client.served(deadline)
            except Unavailable as error:
                if not self._keeper.explains(error):
                    raise
        return await self._client.promised(deadline)

    async def _tokenise(self, prompt: str) -> Tokens:
        try:
            if len(prompt) <= _QUICK_CHARACTERS:
                return tokenise([prompt])
            async with self._tokenising:  # every thread that works makes the event loop wait for its turn
                return await asyncio.to_thread(tokenise, [prompt])
        except InvalidPrompt as error:
            raise PromptInvalid(f"prompt: {error}") from error

    async def _score(self, work: _Work, served: ServedVersion) -> _Scored:
        """Score; a model that is not loaded is woken, and asked again."""
        is_first = True
        while True:
            try:
                return await self._score_once(work, served)
            except Unavailable as error:
                if self._keeper is None or not self._keeper.explains(error):
                    raise
                if not await self._keeper.wake(work.deadline) and not is_first:
                    raise  # Triton has it loaded, and does not find it all the same
            is_first = False
            served = await self.served(work.deadline)  # promotion may have changed it meanwhile

    async def _score_once(self, work: _Work, served: ServedVersion) -> _Scored:
        keys = _keys(work, served)
        known = self._recall(keys)
        self._metrics.cache.labels("hit").inc(sum(key in known for key in keys))
        # The same picture twice in a batch is scored once.
        missing = {key: image for key, image in zip(keys, work.images, strict=True) if key not in known}
        scores = dict(known)
        if missing:
            scores |= await self._infer(work, missing, served)
        images = [
            ScoredImage(image, scores[key], key in known)
            for key, image in zip(keys, work.images, strict=True)
        ]
        return images, served

    def _recall(self, keys: list[bytes]) -> dict[bytes, float]:
        return {key: score for key in keys if (score := self._cache.get(key)) is not None}

    async def _infer(
        self, work: _Work, missing: dict[bytes, PreparedImage], served: ServedVersion
    ) -> dict[bytes, float]:
        if self._keeper is not None and not self._keeper.is_ready:
            raise NotLoaded("the model is not loaded")  # while it loads, Triton hardly answers
        self._metrics.cache.labels("miss").inc(len(missing))
        self._metrics.batch_images.observe(len(missing))
        with self._metrics.stage("infer"):
            rewards = await self._client.score(
                np.stack([image.pixels for image in missing.values()]),
                np.repeat(work.tokens.input_ids, len(missing), axis=0),
                np.repeat(work.tokens.attention_mask, len(missing), axis=0),
                served=served,
                deadline=work.deadline,
                request_id=work.request_id,
            )
        if self._keeper is not None:
            self._keeper.note_request()
        scores = dict(zip(missing, rewards, strict=True))
        for key, reward in scores.items():
            self._cache.put(key, reward)
            self._metrics.raw_score.observe(reward)
        return scores


@dataclass(frozen=True)
class _Work:
    """What of a request is to be scored."""

    tokens: Tokens
    images: list[PreparedImage]
    deadline: Deadline
    request_id: str


_Scored = tuple[list[ScoredImage], "ServedVersion"]
"""The images of a `_Work` in their order, and the version that scored them."""


def _keys(work: _Work, served: ServedVersion) -> list[bytes]:
    return [score_key(image.sha256, work.tokens.input_ids, served.manifest) for image in work.images]
