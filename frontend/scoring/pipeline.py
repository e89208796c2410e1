"""One request from its sources to its scores: admission, tokens, images, versions, Triton."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from frontend.errors import ServiceError
from frontend.scoring import canary
from frontend.scoring.cache import Question
from frontend.scoring.errors import PromptInvalid, UnknownVersion
from frontend.scoring.scorer import Asker, ScoredImage
from frontend.triton.errors import NotLoaded, TritonError, Unavailable
from frontend.triton.served import Role
from reward.errors import InvalidPrompt
from reward.tokenizer import Tokens, tokenise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frontend.deadline import Deadline
    from frontend.gpu.keeper import Keeper
    from frontend.images.sources import ImageLoader, Source
    from frontend.metrics import Metrics
    from frontend.scoring.admission import Admission
    from frontend.scoring.scorer import Scorer
    from frontend.scoring.shadow import Shadow
    from frontend.triton.client import TritonClient
    from frontend.triton.served import Served, ServedVersion

_LOG: Final = logging.getLogger("imajin_aesthetic.versions")
_QUICK_CHARACTERS: Final = 256
"""A prompt of this length takes at most a millisecond; 10,000 characters take up to 40."""


@dataclass(frozen=True)
class ScoreResult:
    """The answer to one request, in the order of its images."""

    images: list[ScoredImage | ServiceError]
    prompt_tokens: int
    prompt_truncated: bool
    model: ServedVersion
    """The version that scored them; if two did, the stable one."""


class Pipeline:
    """The way of every request; all requests share one."""

    def __init__(
        self,
        admission: Admission,
        loader: ImageLoader,
        client: TritonClient,
        scorer: Scorer,
        shadow: Shadow,
        metrics: Metrics,
        keeper: Keeper | None = None,
    ) -> None:
        self._admission = admission
        self._loader = loader
        self._tokenising = asyncio.Lock()
        self._client = client
        self._scorer = scorer
        self._shadow = shadow
        self._metrics = metrics
        self._keeper = keeper

    async def score(
        self,
        prompt: str,
        sources: Sequence[Source],
        *,
        deadline: Deadline,
        request_id: str,
        version: str | None = None,
    ) -> ScoreResult:
        """Score one prompt's images; those that can be decoded are one request for each version.

        Canary and stable version share the questions, unless one `version` is asked for.

        Raises:
            ServiceError: an error of the whole request; a single image's failure is returned in its
                place.
        """
        self._admission.check(len(sources))
        served = await self._client.served(deadline)
        named = self._find(version, served)
        # Refuse before any work is done for nothing. A model that is not loaded yet is left alone
        # here: pictures that cannot be read, or whose scores are known, do not need it.
        if self._keeper is None or self._keeper.is_ready:
            self._client.check(named or served.stable)
        async with (
            self._loader.fetched(sources, deadline) as fetched,  # a slow host takes nobody's place
            AsyncExitStack() as places,
        ):
            with self._metrics.stage("queue", images=len(sources)):
                await places.enter_async_context(self._admission.admit(len(sources), deadline))
            tokens = await self._tokenise(prompt)
            images = await self._loader.decoded(fetched, deadline)
            questions = [Question(image, tokens) for image in images if not isinstance(image, ServiceError)]
            work = _Work(questions, version, Asker(request_id, deadline))
            scored, served = await self._score(work, await self._client.served(deadline))
        versions = {image.version.version: image.version for image in scored}
        in_order = iter(scored)
        return ScoreResult(
            images=[image if isinstance(image, ServiceError) else next(in_order) for image in images],
            prompt_tokens=int(tokens.lengths[0]),
            prompt_truncated=bool(tokens.truncated[0]),
            model=versions.popitem()[1] if len(versions) == 1 else served.stable,
        )

    def _find(self, version: str | None, served: Served) -> ServedVersion | None:
        if version is None:
            return None
        found = served.find(version)
        if found is None:  # or it is served since a moment ago
            served = self._client.read_again(served)
            found = served.find(version)
        if found is None:
            names = ", ".join(f"{one.version} ({one.role})" for one in served.versions)
            raise UnknownVersion(f"version {version} is not served; served are {names}")
        return found

    async def _tokenise(self, prompt: str) -> Tokens:
        try:
            if len(prompt) <= _QUICK_CHARACTERS:
                return tokenise([prompt])
            async with self._tokenising:  # every thread that works makes the event loop wait for its turn
                return await asyncio.to_thread(tokenise, [prompt])
        except InvalidPrompt as error:
            raise PromptInvalid(f"prompt: {error}") from error

    async def _score(self, work: _Work, served: Served) -> tuple[list[ScoredImage], Served]:
        """Score; load the model if it is not loaded, ask another version if one is gone."""
        deadline = work.asker.deadline
        is_first = True
        while True:
            try:
                images = await self._ask(work, served)
            except Unavailable as error:
                if self._keeper is not None and self._keeper.explains(error):
                    if not await self._keeper.wake(deadline) and not is_first:
                        raise  # Triton has it loaded, and does not find it all the same
                elif not (is_first and isinstance(error, NotLoaded)):
                    raise
            else:
                self._shadow.offer(work.questions, images, served)
                return images, served
            is_first = False
            served = await self._client.served(deadline)  # promotion may have changed it meanwhile

    async def _ask(self, work: _Work, served: Served) -> list[ScoredImage]:
        """Ask each question's version; two versions are asked at the same time."""
        named = self._find(work.version, served)
        if named is not None:
            return await self._scorer.score(work.questions, named, work.asker)
        if served.canary is None:
            return await self._scorer.score(work.questions, served.stable, work.asker)
        groups: dict[Role, list[Question]] = {Role.STABLE: [], Role.CANARY: []}
        for question in work.questions:
            groups[canary.choose(question, served).role].append(question)
        answers = await asyncio.gather(
            self._scorer.score(groups[Role.STABLE], served.stable, work.asker),
            self._ask_canary(groups[Role.CANARY], served, work.asker),
            return_exceptions=True,
        )
        images: dict[Question, ScoredImage] = {}
        for questions, answer in zip(groups.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            images.update(zip(questions, answer, strict=True))
        return [images[question] for question in work.questions]

    async def _ask_canary(self, questions: list[Question], served: Served, asker: Asker) -> list[ScoredImage]:
        """Ask the canary; if it fails, half of the time is left for the stable version."""
        if not questions or served.canary is None:
            return []
        try:
            half_s = asker.deadline.remaining_s() / 2
            return await self._scorer.score(questions, served.canary, asker, max_wait_s=half_s)
        except TritonError as error:
            if self._keeper is not None and not self._keeper.is_ready:
                raise  # nor is the stable one loaded
            _LOG.warning(
                "the canary, version %s, fails: %s", served.canary.version, error.internal or error.detail
            )
        return await self._scorer.score(questions, served.stable, asker)


@dataclass(frozen=True)
class _Work:
    """The part of a request that is to be scored."""

    questions: list[Question]
    version: str | None
    asker: Asker
