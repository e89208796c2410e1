"""`AsyncAestheticClient`: the service for code that awaits, on asyncio or trio."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
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


class AsyncAestheticClient:
    """As `AestheticClient`, awaited: the same arguments, answers and errors.

    Files are read, and images encoded, in a thread. A cancelled call ends its request.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.connection = Connection(base_url, api_key, timeout_s, retries)
        self._http = httpx.AsyncClient(headers=self.connection.headers(), transport=transport)
        self._sleep, self._clock, self._random = anyio.sleep, time.monotonic, random.random

    async def score(
        self,
        *,
        image: ImageLike,
        prompt: str,
        min_score: float | None = None,
        min_normalized_score: float | None = None,
        model_version: str | int | None = None,
        timeout_s: float | None = None,
    ) -> Score:
        """Score one image against its prompt; see `AestheticClient.score`."""
        gate = Gate(min_score, min_normalized_score, model_version)
        return await self._ask(await anyio.to_thread.run_sync(calls.score, image, prompt, gate), timeout_s)

    async def score_batch(
        self,
        *,
        prompt: str,
        candidates: Iterable[ImageLike | Candidate],
        min_score: float | None = None,
        min_normalized_score: float | None = None,
        model_version: str | int | None = None,
        timeout_s: float | None = None,
    ) -> Ranking:
        """Rank the candidates of one prompt; see `AestheticClient.score_batch`."""
        gate = Gate(min_score, min_normalized_score, model_version)
        call = await anyio.to_thread.run_sync(calls.score_batch, prompt, candidates, gate)
        return await self._ask(call, timeout_s)

    async def info(self, *, timeout_s: float | None = None) -> Info:
        """Say what is served, what may be asked for and how to read a score."""
        return await self._ask(calls.info(), timeout_s)

    async def health(self, *, timeout_s: float | None = None) -> Health:
        """Say how the service and its parts are; an unhealthy one gives an answer, no error."""
        return await self._ask(calls.health(), timeout_s)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncAestheticClient({self.connection.base_url!r})"

    async def _ask(self, call: Call[Answer], timeout_s: float | None) -> Answer:
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
                await self._sleep(step.seconds)
            else:
                outcome = await self._send(step)

    async def _send(self, step: Send) -> Outcome:
        remaining_s = step.ends_at - self._clock()
        try:
            with anyio.fail_after(remaining_s):
                response = await self._http.request(
                    step.method,
                    self.connection.url(step.path),
                    headers=step.headers,
                    content=step.content,
                    timeout=timeouts(remaining_s),
                )
        except TimeoutError:
            return too_late()
        except httpx.RequestError as error:
            return no_reply(error)
        return Reply(response.status_code, response.headers, response.content)
