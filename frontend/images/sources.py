"""An image's source (URL, base64 or uploaded bytes) -> pixels, or the error that stands for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frontend.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frontend.deadline import Deadline
    from frontend.images.decode import Base64, DecodePool
    from frontend.images.fetch import Fetcher
    from frontend.metrics import Metrics
    from reward import PreparedImage


@dataclass(frozen=True)
class Source:
    """Where an image comes from; exactly one of the three."""

    url: str | None = None
    base64: Base64 | None = None
    data: bytes | None = None


class ImageLoader:
    """Fetches and decodes the images of one request side by side."""

    def __init__(self, fetcher: Fetcher, pool: DecodePool, metrics: Metrics) -> None:
        self._fetcher = fetcher
        self._pool = pool
        self._metrics = metrics

    async def load(self, sources: Sequence[Source], deadline: Deadline) -> list[PreparedImage | ServiceError]:
        """Load the images of one request; one that fails stands as its error and stops no other."""
        fetched = await self._fetch([source.url for source in sources if source.url is not None], deadline)
        async with asyncio.TaskGroup() as group:
            request = object()
            tasks = [
                group.create_task(self._load_one(source, fetched, deadline, request)) for source in sources
            ]
        return [task.result() for task in tasks]

    async def _fetch(self, urls: list[str], deadline: Deadline) -> dict[str, bytes | ServiceError]:
        if not urls:
            return {}
        with self._metrics.stage("fetch"):
            answers = await self._fetcher.fetch_all(urls, timeout_s=deadline.remaining_s())
        return dict(zip(urls, answers, strict=True))

    async def _load_one(
        self, source: Source, fetched: dict[str, bytes | ServiceError], deadline: Deadline, request: object
    ) -> PreparedImage | ServiceError:
        try:
            encoded = self._encoded(source, fetched)
            with self._metrics.stage("decode"):
                return await self._pool.decode(encoded, timeout_s=deadline.remaining_s(), request=request)
        except ServiceError as error:
            return error

    def _encoded(self, source: Source, fetched: dict[str, bytes | ServiceError]) -> bytes | Base64:
        if source.url is not None:
            answer = fetched[source.url]
            if isinstance(answer, ServiceError):
                raise answer
            return answer
        return source.data or b"" if source.base64 is None else source.base64
