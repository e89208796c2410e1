"""The images of one request, from their sources to pixels."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded, ServiceError
from frontend.http.body_limits import BodyLimits
from frontend.images.errors import ImageUndecodable, ImageUnreachable, ImageUrlForbidden, TooManyFetched
from frontend.images.room import FetchRoom
from frontend.images.sources import ImageLoader, Source
from frontend.metrics import Metrics
from frontend.scoring.errors import Overloaded
from reward import PreparedImage
from reward.preprocess import prepare
from tests.pictures import photograph
from tests.unit.frontend.images.stand_ins import Net, fetching, http, standing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODIES = 50_000


class Pool:
    """A pool that decodes in this process, or fails."""

    def __init__(self) -> None:
        self.error: ServiceError | None = None
        self.requests: list[object] = []

    async def decode(self, source: bytes, *, timeout_s: float, request: object) -> PreparedImage:
        del timeout_s
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        if not source.startswith(b"\xff\xd8"):
            raise ImageUndecodable("no JPEG")
        return prepare(source)


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with standing() as net:
        net.answers = {
            "/a": http(b"A" * 1000),
            "/b": http(b"B" * 2000),
            "/gone": http(b"", status="404 Not Found"),
        }
        yield net


@asynccontextmanager
async def _loader(net: Net, max_fetched_bytes: int = BODIES) -> AsyncIterator[tuple[ImageLoader, BodyLimits]]:
    limits = BodyLimits(max_body_bytes=BODIES, max_buffered_bytes=BODIES)
    async with fetching(net) as fetcher:
        pool = Pool()
        yield ImageLoader(fetcher, FetchRoom(limits, max_fetched_bytes), pool, Metrics()), limits  # type: ignore[arg-type]


def _urls(net: Net, *paths: str) -> list[Source]:
    return [Source(url=f"http://public.test:{net.port}/{path}") for path in paths]


async def test_the_images_of_a_request(net: Net) -> None:
    """The images come in the order of the request, and one URL given twice is fetched once.

    An image that fails does not harm the others.
    """
    sources = _urls(net, "a", "b", "a", "gone", "a")
    sources += [Source(data=b"data"), Source(base64="text"), Source(url=f"http://private.test:{net.port}/")]
    async with _loader(net) as (loader, _), loader.fetched(sources, Deadline.after(5)) as images:
        *got, gone, last, data, text, forbidden = [images[n] for n in (0, 1, 2, 3, 4, 5, 6, 7)]
    assert got == [b"A" * 1000, b"B" * 2000, b"A" * 1000]
    assert (last, data, text) == (b"A" * 1000, b"data", "text")
    assert (type(gone), type(forbidden)) == (ImageUnreachable, ImageUrlForbidden)
    assert sorted(head.split(" ")[1] for head in net.heads) == ["/a", "/b", "/gone"]


async def test_fetched_bytes_are_counted_while_they_are_held(net: Net) -> None:
    """Fetched bytes count with those of bodies until the request ends, however it ends."""
    async with _loader(net) as (loader, limits):
        for failure in (None, KeyError):
            try:
                async with loader.fetched(_urls(net, "a", "b"), Deadline.after(5)):
                    assert limits.buffered_bytes == 3000
                    if failure:
                        raise failure
            except KeyError:
                pass
            assert limits.buffered_bytes == 0


@pytest.mark.parametrize(
    ("taken", "max_fetched", "expected"), [(0, 2500, TooManyFetched), (48_000, BODIES, Overloaded)]
)
async def test_no_room_for_what_is_fetched(
    net: Net, taken: int, max_fetched: int, expected: type[ServiceError]
) -> None:
    """The whole request is refused if fetched images fill their part, or bodies the whole."""
    async with _loader(net, max_fetched) as (loader, limits):
        limits.take(taken)
        with pytest.raises(expected):
            async with loader.fetched(_urls(net, "a", "b"), Deadline.after(5)):
                pass
        assert limits.buffered_bytes == taken
        async with loader.fetched(_urls(net, "a"), Deadline.after(5)) as images:
            assert images == [b"A" * 1000]


async def test_what_fails_to_decode_stands_as_its_error(net: Net) -> None:
    """An image that cannot be decoded is its error instead, and stops no other.

    The images of one request are one request to the decoders.
    """
    async with _loader(net) as (loader, _):
        gone = ImageUnreachable("gone")
        first, second, third = await loader.decoded(
            [photograph("coffee"), b"no image", gone], Deadline.after(5)
        )
        await loader.decoded([photograph("coffee")], Deadline.after(5))
        requests = loader._pool.requests  # type: ignore[attr-defined]
    assert isinstance(first, PreparedImage)
    assert isinstance(second, ImageUndecodable)
    assert third is gone
    assert requests[0] is requests[1] is not requests[2]


async def test_a_deadline_that_passes_is_the_whole_requests(net: Net) -> None:
    """When the deadline passes, it has passed for the whole request."""
    async with _loader(net) as (loader, _):
        loader._pool.error = DeadlineExceeded("late")  # type: ignore[attr-defined]
        with pytest.raises(DeadlineExceeded):
            await loader.decoded([b"", b"", b""], Deadline.after(5))
