"""An image's source (URL, base64 or uploaded bytes) -> pixels, or the error that stands for it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from frontend.errors import ImageTooLarge, ImageUndecodable, ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frontend.deadline import Deadline
    from frontend.images.decode import Decoded, DecodePool
    from frontend.images.fetch import Fetcher
    from frontend.metrics import Metrics

_DATA_URI: Final = re.compile(r"data:(?P<type>[^,;]*)(?P<parameters>(?:;[^,;]*)*),", re.ASCII | re.IGNORECASE)
_SPACE: Final = re.compile(r"[ \t\r\n]+")


@dataclass(frozen=True)
class Source:
    """Where an image comes from; exactly one of the three."""

    url: str | None = None
    base64: str | None = None
    data: bytes | None = None


class ImageLoader:
    """Fetches and decodes the images of one request side by side."""

    def __init__(self, fetcher: Fetcher, pool: DecodePool, metrics: Metrics, *, max_bytes: int) -> None:
        self._fetcher = fetcher
        self._pool = pool
        self._metrics = metrics
        self._max_bytes = max_bytes

    async def load(self, sources: Sequence[Source], deadline: Deadline) -> list[Decoded | ServiceError]:
        """Load the images of one request; one that fails stands as its error and stops no other."""
        fetched = await self._fetch([source.url for source in sources if source.url is not None], deadline)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._load_one(source, fetched, deadline)) for source in sources]
        return [task.result() for task in tasks]

    async def _fetch(self, urls: list[str], deadline: Deadline) -> dict[str, bytes | ServiceError]:
        if not urls:
            return {}
        with self._metrics.stage("fetch"):
            answers = await self._fetcher.fetch_all(urls, timeout_s=deadline.remaining_s())
        return dict(zip(urls, answers, strict=True))

    async def _load_one(
        self, source: Source, fetched: dict[str, bytes | ServiceError], deadline: Deadline
    ) -> Decoded | ServiceError:
        try:
            data = self._bytes(source, fetched)
            with self._metrics.stage("decode"):
                return await self._pool.decode(data, timeout_s=deadline.remaining_s())
        except ServiceError as error:
            self._metrics.failed_images.labels(error.code).inc()
            return error

    def _bytes(self, source: Source, fetched: dict[str, bytes | ServiceError]) -> bytes:
        if source.url is not None:
            answer = fetched[source.url]
            if isinstance(answer, ServiceError):
                raise answer
            return answer
        data = source.data if source.data is not None else decode_base64(source.base64 or "", self._max_bytes)
        if len(data) > self._max_bytes:
            raise too_large(self._max_bytes)
        return data


def decode_base64(text: str, max_bytes: int) -> bytes:
    """Decode base64 or a data: URI; line breaks and missing padding are accepted, foreign letters are not.

    Raises:
        ImageUndecodable: not base64.
        ImageTooLarge: more than `max_bytes` when decoded, found before decoding.
    """
    if text[:5].lower() == "data:":
        match = _DATA_URI.match(text[:1024])
        if match is None or ";base64" not in match["parameters"].lower():
            raise ImageUndecodable("the data: URI is not of the form data:image/...;base64,...")
        text = text[match.end() :]
    text = _SPACE.sub("", text).rstrip("=")
    if len(text) * 3 // 4 > max_bytes:
        raise too_large(max_bytes)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageUndecodable("image_base64 is not valid base64") from error


def too_large(max_bytes: int) -> ImageTooLarge:
    """Say that an image is above the byte limit, in the same words everywhere."""
    return ImageTooLarge(f"the image has more than the {max_bytes} bytes allowed")
