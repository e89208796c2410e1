"""What /metrics says of the application's parts."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from frontend.app import create_app
from frontend.http.problem import KINDS
from frontend.settings import Settings
from tests.pictures import photograph
from tests.unit.frontend.triton.stand_in import deploy, publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BODY = {"prompt": "a cup", "image_base64": base64.b64encode(photograph("coffee")).decode()}
HEADERS = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application over a stand-in with a canary, and with 7 as its limits."""
    deploy(publish_manifest(publish_manifest(tmp_path), version=4), 3, canary=(4, 0.25))
    async with standing_in() as triton:
        settings = Settings(
            triton_url=f"127.0.0.1:{triton.port}",
            model_repository=tmp_path,
            decode_workers=1,
            max_concurrency=7,
            max_candidates=7,
            max_queue=7,
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
        ):
            yield client


async def _metrics(client: httpx.AsyncClient) -> dict[tuple[str, frozenset[Any]], float]:
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def _key(name: str, **labels: str) -> tuple[str, frozenset[Any]]:
    return f"aesthetic_{name}", frozenset(labels.items())


async def test_errors_are_counted_by_their_codes(client: httpx.AsyncClient) -> None:
    """Every code has a counter from the start, and an error adds one to its own."""
    before = await _metrics(client)
    codes = {row.code for row in KINDS.values()}
    for code in codes:
        assert before[_key("errors_total", endpoint="/score", code=code)] == 0
    await client.post("/score", json={"prompt": "a cup", "image_base64": "no picture"})
    await client.post("/score", json={**BODY, "model_version": "99"})
    after = await _metrics(client)
    grown = {code for code in codes if after[_key("errors_total", endpoint="/score", code=code)] == 1}
    assert grown == {"image_undecodable", "unknown_version"}


async def test_served_versions_and_their_shares(client: httpx.AsyncClient) -> None:
    """Each served version has its role and the share of the questions that it is asked."""
    await client.post("/score", json=BODY)
    found = await _metrics(client)
    assert found[_key("version_share", version="3", role="stable")] == 1
    assert found[_key("version_share", version="4", role="canary")] == 0.25


async def test_limits_stand_beside_what_they_limit(client: httpx.AsyncClient) -> None:
    """A dashboard can tell how full the service is, for its limits are metrics, too."""
    found = await _metrics(client)
    assert found[_key("max_images_in_work")] == found[_key("max_images_queued")] == 7
    assert found[_key("max_buffered_bytes")] == Settings().max_buffered_bytes
    assert found[_key("decode_workers_busy")] <= found[_key("decode_workers")] == 1  # a look may be on
    assert (found[_key("images_in_work")], found[_key("buffered_bytes")]) == (0, 0)


async def test_parts_that_fail(client: httpx.AsyncClient) -> None:
    """Every part is a gauge: 0 while it is well, and while there is none of it."""
    await client.post("/score", json=BODY)
    found = await _metrics(client)
    parts = {dict(labels)["part"] for name, labels in found if name == "aesthetic_part_failing"}
    assert parts == {"decode", "triton", "model", "gpu", "canary", "shadow"}
    assert found[_key("part_failing", part="decode")] == found[_key("part_failing", part="gpu")] == 0


async def test_triton_is_told_of_no_trace(tmp_path: Path) -> None:
    """Without a collector a caller's `traceparent` goes no further."""
    publish_manifest(tmp_path)
    async with standing_in() as triton:
        settings = Settings(
            triton_url=f"127.0.0.1:{triton.port}", model_repository=tmp_path, decode_workers=1
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
        ):
            assert (await client.post("/score", json=BODY, headers=HEADERS)).status_code == 200
    assert not any("traceparent" in headers for headers in triton.headers)
