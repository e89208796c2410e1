"""The pool of decode workers: its answers, and whom a worker's trouble affects."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from frontend.errors import DeadlineExceeded
from frontend.images.decode import DecodePool
from frontend.images.errors import DecoderStopped, ImageTooLarge, ImageUndecodable
from frontend.images.shared_bytes import Piece, SharedBytes
from reward.decoding import DecodeLimits
from reward.errors import RewardError
from reward.preprocess import prepare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK = DecodeLimits(timeout_s=3.0, memory_bytes=256 * 2**20)
PLAY = "tests.unit.frontend.images.decode_work"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoder() -> AsyncIterator[DecodePool]:
    """The ordinary pool, for tests of images."""
    async with DecodePool() as decoder:
        yield decoder


@pytest_asyncio.fixture(loop_scope="module")
async def pool() -> AsyncIterator[DecodePool]:
    """A pool whose workers have short limits and do what the bytes tell them."""
    async with DecodePool(QUICK, module=PLAY) as pool:
        yield pool


def encoded(format: str, size: tuple[int, int] = (300, 200), **options: object) -> bytes:  # noqa: A002
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def animated(format: str, frames: int, size: tuple[int, int]) -> bytes:  # noqa: A002
    file = io.BytesIO()
    first, *more = [
        Image.new("RGB", size, (index * 60 % 256, 255 - index * 60 % 256, 9)) for index in range(frames)
    ]
    first.save(file, format, save_all=True, append_images=more, duration=20)
    return file.getvalue()


async def pid(pool: DecodePool) -> int:
    return int((await pool.decode(b"pid", timeout_s=10)).format)


# --- Images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
async def test_formats(decoder: DecodePool, format: str) -> None:  # noqa: A002
    """Every allowed format gives the pixels that `reward` prepares.

    Size and format are the header's, and the digest is that of the file's bytes.
    """
    data = encoded(format)
    decoded = await decoder.decode(data, timeout_s=10)
    np.testing.assert_array_equal(decoded.pixels, prepare(data).pixels)
    assert (decoded.width, decoded.height, decoded.format) == (300, 200, format)
    assert decoded.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
async def test_first_frame(decoder: DecodePool, format: str) -> None:  # noqa: A002
    """The first frame of an animation is scored."""
    data = animated(format, 5, (64, 48))
    decoded = await decoder.decode(data, timeout_s=10)
    np.testing.assert_array_equal(decoded.pixels, prepare(data).pixels)
    assert decoded.pixels[0].max() < 8


async def test_a_jpeg_with_previews_is_a_jpeg(decoder: DecodePool) -> None:
    """A camera's JPEG with further images inside counts as JPEG; these are not frames."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    assert (await decoder.decode(file.getvalue(), timeout_s=10)).format == "JPEG"


@pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "ICO", "JPEG2000", "PCX", "TGA"])
async def test_other_formats(decoder: DecodePool, format: str) -> None:  # noqa: A002
    """A format outside the list is refused, by the content of the file."""
    with pytest.raises(
        ImageUndecodable, match="not an image in one of the formats JPEG, PNG, WEBP, GIF, AVIF"
    ):
        await decoder.decode(encoded(format), timeout_s=10)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
async def test_truncated(decoder: DecodePool, format: str) -> None:  # noqa: A002
    """A file that was cut short is an error, never a picture that is half grey."""
    data = encoded(format)
    for share in (0.0, 0.05, 0.5, 0.9):
        with pytest.raises(ImageUndecodable):
            await decoder.decode(data[: int(len(data) * share)], timeout_s=10)


async def test_pixels_are_read_from_the_header() -> None:
    """An image with more pixels than allowed is refused; one with just as many is decoded."""
    async with DecodePool(DecodeLimits(max_pixels=240_000), workers=1) as decoder:
        assert (await decoder.decode(encoded("PNG", (600, 400)), timeout_s=10)).width == 600
        for format in ("JPEG", "PNG", "WEBP", "GIF", "AVIF"):  # noqa: A001
            with pytest.raises(ImageTooLarge, match="240000 pixels"):
                await decoder.decode(encoded(format, (600, 401)), timeout_s=10)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
async def test_frames_are_counted(format: str) -> None:  # noqa: A002
    """The limit holds for the pixels of all frames together."""
    async with DecodePool(DecodeLimits(max_pixels=300_000), workers=1) as decoder:
        assert (await decoder.decode(animated(format, 4, (250, 250)), timeout_s=10)).width == 250
        with pytest.raises(ImageTooLarge, match="5 frames of 250 x 250"):
            await decoder.decode(animated(format, 5, (250, 250)), timeout_s=10)


# --- Workers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "why"),
    [("spin", "more processor time"), ("nap 30", "longer than 3 s"), ("stop", "longer than 3 s")],
)
async def test_a_worker_that_hangs(pool: DecodePool, word: str, why: str) -> None:
    """A worker that is busy in C, sleeps or is stopped is killed at its limit.

    The error is the image's own, not that of a passed deadline.
    """
    with pytest.raises(ImageUndecodable, match=why):
        await pool.decode(word.encode(), timeout_s=30)
    assert (await pool.decode(encoded("PNG"), timeout_s=10)).format == "PNG"


async def test_deadline_while_decoding(pool: DecodePool) -> None:
    """The request's own deadline gives 504 if it is shorter than the worker's limit."""
    with pytest.raises(DeadlineExceeded):
        await pool.decode(b"nap 30", timeout_s=0.1)
    with pytest.raises(DeadlineExceeded):
        await pool.decode(b"pid", timeout_s=0)


async def test_deadline_while_waiting() -> None:
    """Waiting for a worker counts towards the deadline.

    An image whose caller has given up waiting is never started.
    """
    async with DecodePool(DecodeLimits(timeout_s=20), workers=1, module=PLAY) as pool:
        busy = asyncio.create_task(pool.decode(b"nap 0.6", timeout_s=20))
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineExceeded):
            await pool.decode(b"die 9", timeout_s=0.1)
        await busy


@pytest.mark.parametrize(
    "word", ["die 9", "die 15", "die 11", "die 6", "exit 0", "exit 1", "eat 100000000000", "eat 300000000"]
)
async def test_a_worker_that_dies_costs_its_own_image_only(pool: DecodePool, word: str) -> None:
    """A worker that is killed, crashes, exits or runs out of memory fails one image, with its code.

    All other images are decoded.
    """
    image = encoded("PNG")
    tasks = [pool.decode(word.encode() if n == 4 else image, timeout_s=20) for n in range(12)]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    wrong = [type(answer) for answer in answers if isinstance(answer, BaseException)]
    assert wrong == [ImageTooLarge if word.startswith("eat") else ImageUndecodable]


async def test_a_worker_killed_from_outside_is_forgiven(pool: DecodePool, tmp_path: Path) -> None:
    """An image whose worker was killed once is tried again.

    The kill may have had nothing to do with the image.
    """
    word = f"die-once {tmp_path / 'mark'}"
    assert (await pool.decode(word.encode(), timeout_s=10)).format == "second life"


async def test_idle_workers_killed(pool: DecodePool) -> None:
    """Idle workers that are killed make no image fail, neither at once nor later."""
    for pause_s in (0.0, 0.5):
        for _ in range(2):
            os.kill(await pid(pool), signal.SIGKILL)
        await asyncio.sleep(pause_s)
        images = [pool.decode(encoded("PNG"), timeout_s=20) for _ in range(6)]
        assert {decoded.format for decoded in await asyncio.gather(*images)} == {"PNG"}


async def test_kills_under_load() -> None:
    """While workers are killed at work, no image gets a wrong answer.

    Only an image whose worker was killed twice is refused.
    """
    images = {encoded("JPEG", (900 + n, 700)): 900 + n for n in range(8)}
    lost: list[bool] = []
    refused: list[bytes] = []
    async with DecodePool(module=PLAY, on_worker_lost=lambda: lost.append(True)) as pool:

        async def decode_until_workers_were_lost(data: bytes, width: int) -> None:
            while len(lost) < 4:
                try:
                    decoded = await pool.decode(data, timeout_s=60)
                except ImageUndecodable:
                    refused.append(data)
                else:
                    assert decoded.width == width
                    assert decoded.sha256 == hashlib.sha256(data).hexdigest()

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for item in images.items():
                tasks.create_task(decode_until_workers_were_lost(*item))
            while len(lost) < 4:  # a kill between two images loses nothing
                worker = await pid(pool)
                await asyncio.sleep(0.002)  # it is given the next image meanwhile
                os.kill(worker, signal.SIGKILL)
                await asyncio.sleep(0.05)
    assert len(refused) <= len(lost) // 2


async def test_a_defect_is_not_the_images_fault(pool: DecodePool) -> None:
    """An exception that no decoder raises is an internal error, not an error of the image."""
    with pytest.raises(RewardError, match="by a defect; see the log"):
        await pool.decode(b"defect", timeout_s=10)


async def test_memory_bound() -> None:
    """An image that takes too much memory to decode is too large, and its worker lives on."""
    async with DecodePool(DecodeLimits(memory_bytes=48 * 2**20), workers=1, module=PLAY) as pool:
        before = await pid(pool)
        for mode in ("RGBA", "RGB"):
            file = io.BytesIO()
            Image.new(mode, (5000, 5000)).save(file, "PNG")
            with pytest.raises(ImageTooLarge, match="more memory"):
                await pool.decode(file.getvalue(), timeout_s=30)
        assert await pid(pool) == before


async def test_cancelled_callers(pool: DecodePool) -> None:
    """The image of a caller who leaves while waiting is never started.

    A caller who leaves while the image is being decoded does not cost a worker.
    """
    before = {await pid(pool), await pid(pool)}
    tasks = [asyncio.create_task(pool.decode(b"nap 1.5", timeout_s=20)) for _ in range(2)]
    waiting = asyncio.create_task(pool.decode(b"die 9", timeout_s=20))
    await asyncio.sleep(0.1)
    for task in (*tasks, waiting):
        task.cancel()
    await asyncio.gather(*tasks, waiting, return_exceptions=True)
    after: set[int] = set()
    while len(after) < 2:  # the first to finish its nap may answer several times
        after.add(await pid(pool))
    assert after == before


async def test_a_batch_of_slow_images_holds_up_nobody_else(pool: DecodePool) -> None:
    """However many images of one request wait, another request finds a worker."""
    batch = [asyncio.create_task(pool.decode(b"nap 2", timeout_s=60, request="batch")) for _ in range(10)]
    await asyncio.sleep(0.1)
    assert (await pool.decode(encoded("PNG"), timeout_s=60)).format == "PNG"
    assert not any(task.done() for task in batch)
    for task in batch:
        task.cancel()


async def test_workers_are_light(pool: DecodePool) -> None:
    """A worker imports Pillow, but neither NumPy, the web framework nor torch."""
    modules = (await pool.decode(b"modules", timeout_s=10)).format.split(",")
    assert "PIL" in modules
    assert not {"numpy", "fastapi", "starlette", "torch", "aiohttp", "uvicorn", "tritonclient"} & set(modules)


async def test_leaving_finishes_what_runs() -> None:
    """Leaving the pool waits for the images being decoded; afterwards none is accepted."""
    async with DecodePool(module=PLAY) as pool:
        task = asyncio.create_task(pool.decode(b"nap 0.3", timeout_s=20))
        await asyncio.sleep(0.1)
    assert (await task).format == "None"
    with pytest.raises(DecoderStopped):
        await pool.decode(b"pid", timeout_s=1)


async def test_leaving_does_not_wait_for_what_nobody_waits_for() -> None:
    """Leaving the pool ends work that takes longer than a moment, with its worker.

    The service has to end in time.
    """
    async with DecodePool(DecodeLimits(timeout_s=600), workers=1, module=PLAY) as pool:
        task = asyncio.create_task(pool.decode(b"nap 500", timeout_s=600))
        await asyncio.sleep(0.1)
    with pytest.raises(DecoderStopped):
        await asyncio.wait_for(task, 20)


async def test_base64_is_decoded_by_the_worker(decoder: DecodePool) -> None:
    """The worker decodes base64, as text or as the inside of a JSON string.

    Too much base64 is too large an image.
    """
    data = encoded("PNG")
    text = base64.b64encode(data).decode()
    content = text.replace("/", "\\/").encode()
    pieces = [Piece(SharedBytes(content + bytes(more)), 0, len(content)) for more in (0, 10**6)]
    assert [piece.whole.is_short for piece in pieces] == [True, False]
    sources: list[str | Piece] = [text, *pieces]
    for source in sources:
        assert (await decoder.decode(source, timeout_s=10)).sha256 == hashlib.sha256(data).hexdigest()
    with pytest.raises(ImageUndecodable, match="not valid base64"):
        await decoder.decode("!", timeout_s=10)
    with pytest.raises(ImageTooLarge, match="20971520 bytes"):
        await decoder.decode("A" * 28_000_000, timeout_s=30)
