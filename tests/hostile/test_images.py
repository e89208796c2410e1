"""Images made to cost much are refused or decoded, and cost other callers little."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING, Final

import pytest

from reward.decoding import DecodeLimits, DecodeWorker
from reward.errors import InvalidImage
from tests.hostile import heavy_images
from tests.hostile.good_caller import Service, service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Of each kind a file of some megabytes at most, so that ten fit into a request.
HEAVY: Final[dict[str, Callable[[], bytes]]] = {
    "jpeg of many scans": lambda: heavy_images.jpeg_of_scans(230),
    "jpeg of as many scans as are allowed": lambda: heavy_images.jpeg_of_scans(30),
    "jpeg of markers": lambda: heavy_images.jpeg_of_markers(1_000_000),
    "jpeg of padding": lambda: heavy_images.jpeg_of_padding(4_000_000),
    "jpeg of rubbish": lambda: heavy_images.jpeg_of_rubbish(4_000_000),
    "png of colour profiles": lambda: heavy_images.png_of_profiles(4000),
    "png of texts": lambda: heavy_images.png_of_texts(4000),
    "png of chunks": lambda: heavy_images.png_of_chunks(350_000),
    "png of empty data": lambda: heavy_images.png_of_empty_data(350_000),
    "png of trailing chunks": lambda: heavy_images.png_of_trailing_chunks(350_000),
    "gif of frames": lambda: heavy_images.gif_of_frames(250_000),
    "gif of a comment in single bytes": lambda: heavy_images.gif_of_comment_bytes(2_000_000),
    "gif of comments": lambda: heavy_images.gif_of_comments(800_000),
    "gif of data in single bytes": lambda: heavy_images.gif_of_data_bytes(2_000_000),
    "webp of frames": lambda: heavy_images.webp_of_frames(90_000),
    "webp of chunks": lambda: heavy_images.webp_of_chunks(500_000),
}

QUICK: Final = ("jpeg of many scans", "png of colour profiles", "gif of frames", "webp of frames")


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.hostile) for kind in HEAVY]
)
def test_a_heavy_image_costs_no_more_than_an_ordinary_one_may(kind: str) -> None:
    """A heavy image is decoded or refused before it reaches the time limit."""
    worker = DecodeWorker(DecodeLimits(timeout_s=30))
    try:
        worker.start()
        begun = time.monotonic()
        try:
            outcome = f"decoded as {worker.decode(HEAVY[kind]()).format}"
        except InvalidImage as error:
            outcome = f"refused: {error}"
    finally:
        worker.close()
    print(f"\n{kind}: {time.monotonic() - begun:.2f} s, {outcome}")  # noqa: T201
    assert "took longer" not in outcome


@pytest.mark.hostile
@pytest.mark.parametrize("kind", HEAVY)
async def test_batches_of_heavy_images_beside_a_good_caller(tmp_path: Path, kind: str) -> None:
    """Beside four batches of ten heavy images, a caller with ordinary images gets right answers."""
    image = base64.b64encode(HEAVY[kind]()).decode()
    batch = json.dumps({"prompt": "x", "candidates": [{"image_base64": image}] * 10}).encode()
    async with (
        service(tmp_path, max_buffered_bytes=512 * 2**20) as attacked,
        attacked.with_good_caller(f"4 batches of {kind}, {len(image) / 1e6:.1f} MB an image"),
    ):
        statuses = await asyncio.gather(*(_send(attacked, batch) for _ in range(4)))
    assert set(statuses) <= {0, 200, 413, 422, 429, 504}


async def _send(attacked: Service, batch: bytes) -> int:
    status, _ = await attacked.ask("/score-batch", batch)
    return status
