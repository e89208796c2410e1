"""`AestheticClient`: the service for code that blocks."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

import httpx

from imajin_aesthetic_client import calls
from imajin_aesthetic_client.calls import Candidate, Gate
from imajin_aesthetic_client.connection import DEFAULT_TIMEOUT_S, DEFAULT_URL, Connection
from imajin_aesthetic_client.exchange import Call, Outcome, Reply, Send, Wait, exchange, too_late
from imajin_aesthetic_client.retries import Retries
from imajin_aesthetic_client.transport import no_reply, timeouts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from imajin_aesthetic_client.answers import Health, Info, Ranking, Score
    from imajin_aesthetic_client.images import ImageLike

Answer = TypeVar("Answer")


class AestheticClient:
    """Asks one service, over connections that are kept; threads may share it.

    Every method raises an `AestheticError` (errors.py has the tree) where there is no answer.

    Args:
        base_url: `http(s)://host[:port][/path]` of the service.
        api_key: where the service wants one.
        timeout_s: how long one call may take, with all its retries; the service is told, too.
        retries: how often it asks, and how long it waits in between.
        transport: in the place of httpx's own: other certificates, a proxy, a handler in a test.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.connection = Connection(base_url, api_key, timeout_s, retries)
        self._http = httpx.Client(headers=self.connection.headers(), transport=transport)
        self._sleep, self._clock, self._random = time.sleep, time.monotonic, random.random

    def score(
        self,
        *,
        image: ImageLike,
        prompt: str,
        min_score: float | None = None,
        min_normalized_score: float | None = None,
        model_version: str | int | None = None,
        timeout_s: float | None = None,
    ) -> Score:
        """Score one image against its prompt.

        Args:
            image: a path, the bytes of a file, a Pillow image, or an address to be fetched.
            prompt: what the image was meant to show.
            min_score: `passed` says whether `raw_score` reaches it.
            min_normalized_score: the same for `normalized_score`; with both, whether both are
                reached.
            model_version: a version that is served (`info().versions`), to answer alone. By
                default the service chooses.
            timeout_s: instead of the client's.
        """
        return self._ask(
            calls.score(image, prompt, Gate(min_score, min_normalized_score, model_version)), timeout_s
        )

    def score_batch(
        self,
        *,
        prompt: str,
        candidates: Iterable[ImageLike | Candidate],
        min_score: float | None = None,
        min_normalized_score: float | None = None,
        model_version: str | int | None = None,
        timeout_s: float | None = None,
    ) -> Ranking:
        """Rank the candidates of one prompt; ten at most, where `/info` says nothing else.

        One that fails stands in `failed`. Where all fail, the error has that list.
        """
        return self._ask(
            calls.score_batch(prompt, candidates, Gate(min_score, min_normalized_score, model_version)),
            timeout_s,
        )

    def info(self, *, timeout_s: float | None = None) -> Info:
        """Say what is served, what may be asked for and how to read a score."""
        return self._ask(calls.info(), timeout_s)

    def health(self, *, timeout_s: float | None = None) -> Health:
        """Say how the service and its parts are; an unhealthy one gives an answer, no error."""
        return self._ask(calls.health(), timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"AestheticClient({self.connection.base_url!r})"

    def _ask(self, call: Call[Answer], timeout_s: float | None) -> Answer:
        steps = exchange(
            call,
            timeout_s=self.connection.timeout_s if timeout_s is None else timeout_s,
            retries=self.connection.retries,
            clock=self._clock,
            random=self._random,
        )
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            if isinstance(step, Wait):
                outcome = None
                self._sleep(step.seconds)
            else:
                outcome = self._send(step)

    def _send(self, step: Send) -> Outcome:
        try:
            with self._http.stream(
                step.method,
                self.connection.url(step.path),
                headers=step.headers,
                content=step.content,
                timeout=timeouts(step.ends_at - self._clock()),
            ) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if self._clock() > step.ends_at:  # httpx times each read, not all of them
                        return too_late()
                return Reply(response.status_code, response.headers, bytes(content))
        except httpx.RequestError as error:
            return no_reply(error)
