"""An image's source (URL, base64 or uploaded bytes) -> pixels, or an error in their place."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from frontend.errors import ServiceError
from frontend.images.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from frontend.deadline import Deadline
    from frontend.images.decode import Base64, DecodePool
    from frontend.images.fetch import Fetcher
    from frontend.images.room import FetchRoom
    from frontend.metrics import Metrics
    from reward import PreparedImage

    Encoded = bytes | bytearray | Base64
    """An image as its sender or its host has given it."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Source:
    """Where an image comes from; exactly one of the three is set."""

    url: str | None = None
    base64: Base64 | None = None
    data: bytes | None = None


class ImageLoader:
    """Fetch the images of one request side by side, and decode them."""

    def __init__(self, fetcher: Fetcher, room: FetchRoom, pool: DecodePool, metrics: Metrics) -> None:
        self._fetcher = fetcher
        self._room = room
        self._pool = pool
        self._metrics = metrics

    @asynccontextmanager
    async def fetched(
        self, sources: Sequence[Source], deadline: Deadline
    ) -> AsyncIterator[list[Encoded | ServiceError]]:
        """Hold the encoded images of one request while the block runs.

        An image that cannot be fetched is its error instead, and stops no other.

        Raises:
            ServiceError: there is no room for what is fetched, or the deadline passed.
        """
        with self._room.holding() as take:
            urls = list(dict.fromkeys(source.url for source in sources if source.url is not None))
            answers = dict(zip(urls, await self._fetch(urls, deadline, take), strict=True))
            yield [_encoded(source) if source.url is None else answers[source.url] for source in sources]

    async def decoded(
        self, images: Sequence[Encoded | ServiceError], deadline: Deadline
    ) -> list[PreparedImage | ServiceError]:
        """Decode the images of one request; a failed one is its error instead, and stops no other.

        Raises:
            ServiceError: the deadline passed, or the service is ending.
        """
        request = object()
        return await _all(lambda image: self._decode(image, deadline, request), images)

    async def _fetch(
        self, urls: list[str], deadline: Deadline, take: Callable[[int], None]
    ) -> list[bytearray | ServiceError]:
        if not urls:
            return []
        with self._metrics.stage("fetch", urls=len(urls)):
            timeout_s = deadline.remaining_s()
            return await _all(lambda url: self._fetcher.fetch(url, timeout_s=timeout_s, take=take), urls)

    async def _decode(
        self, image: Encoded | ServiceError, deadline: Deadline, request: object
    ) -> PreparedImage:
        if isinstance(image, ServiceError):
            raise image
        with self._metrics.stage("decode"):
            return await self._pool.decode(image, timeout_s=deadline.remaining_s(), request=request)


def _encoded(source: Source) -> Encoded:
    return source.data or b"" if source.base64 is None else source.base64


async def _all(work: Callable[[T], Coroutine[Any, Any, R]], items: Sequence[T]) -> list[R | ServiceError]:
    """Do all at once; an image's error stands in its place, any other error ends the rest."""
    if len(items) == 1:
        return [await _attempt(work, items[0])]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_attempt(work, item)) for item in items]
    except ExceptionGroup as errors:
        if errors.split(ServiceError)[1] is not None:
            raise  # a defect of ours
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def _attempt(work: Callable[[T], Coroutine[Any, Any, R]], item: T) -> R | ServiceError:
    try:
        return await work(item)
    except ImageError as error:
        return error
