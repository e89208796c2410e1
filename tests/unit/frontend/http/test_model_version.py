"""A version that is asked for by name, and what answers say about versions."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from frontend.app import create_app
from frontend.settings import Settings
from reward import manifest
from reward.contract import NETWORK
from tests.pictures import photograph
from tests.unit.frontend.triton.stand_in import deploy, publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.unit.frontend.triton.stand_in import TritonStandIn

IMAGE = photograph("coffee")
JSON = {"prompt": "a cup", "image_base64": base64.b64encode(IMAGE).decode()}


@pytest.fixture
async def triton() -> AsyncIterator[TritonStandIn]:
    async with standing_in() as triton:
        triton.rewards = {"3": 0.25, "4": 0.5}
        yield triton


@pytest.fixture
async def client(triton: TritonStandIn, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application over a stand-in that serves version 3, and version 4 to hardly anybody."""
    publish_manifest(publish_manifest(tmp_path), version=4)
    directory = tmp_path / NETWORK.name / "4"
    report = {"passed": True, "kendall": 0.99, "limits": {"kendall": 0.9}}
    manifest.write(dataclasses.replace(manifest.read(directory), gates=report), directory)
    deploy(tmp_path, 3, "gpu", canary=(4, 1e-9))
    settings = Settings(triton_url=f"127.0.0.1:{triton.port}", model_repository=tmp_path, decode_workers=1)
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


async def test_a_version_by_name(client: httpx.AsyncClient) -> None:
    """The version that is named answers, given as a number or as text.

    It may be named in JSON or in a form's field; null names none.
    """
    upload = {"files": {"image": IMAGE}}
    for request, version in (
        ({"json": JSON}, "3"),
        ({"json": JSON | {"model_version": None}}, "3"),
        ({"json": JSON | {"model_version": 4}}, "4"),
        ({"json": JSON | {"model_version": "4"}}, "4"),
        ({"data": {"prompt": "a cup"}, **upload}, "3"),
        ({"data": {"prompt": "a cup", "model_version": "4"}, **upload}, "4"),
    ):
        answer = (await client.post("/score", **request)).json()
        assert (answer["model_version"], answer["model"]["version"]) == (version, version)
        assert answer["raw_score"] == {"3": 0.25, "4": 0.5}[version]
    batch = {"prompt": "a cup", "candidates": [{"image_base64": JSON["image_base64"]}], "model_version": "4"}
    answer = (await client.post("/score-batch", json=batch)).json()
    assert (answer["model"]["version"], answer["best_candidate"]["model_version"]) == ("4", "4")


@pytest.mark.parametrize(
    ("version", "code"),
    [
        (5, "unknown_version"),
        ("", "unknown_version"),
        ("stable", "unknown_version"),
        ("4.0", "unknown_version"),
        (4.0, "invalid_request"),
        (True, "invalid_request"),
        (["4"], "invalid_request"),
        ("4" * 21, "invalid_request"),
    ],
)
async def test_a_version_that_cannot_be_had(client: httpx.AsyncClient, version: object, code: str) -> None:
    """A version that is not served is told from what is no version at all.

    The answer names the served ones.
    """
    answer = await client.post("/score", json=JSON | {"model_version": version})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    if code == "unknown_version":
        assert "served are 3 (stable), 4 (canary)" in answer.json()["detail"]


async def test_what_is_said_of_versions(client: httpx.AsyncClient) -> None:
    """`/info` lists all versions, with shares and what the gates measured, but not the limits.

    Metrics have labels for them.
    """
    info = (await client.get("/info")).json()
    assert [(one["version"], one["role"], one["share"]) for one in info["versions"]] == [
        ("3", "stable", 1.0),
        ("4", "canary", 1e-9),
    ]
    assert [one["gates"] for one in info["versions"]] == [None, {"passed": True, "kendall": 0.99}]
    assert [one["weights_sha256"][0] for one in info["versions"]] == ["3", "4"]
    assert info["model"]["version"] == "3"
    await client.post("/score", json=JSON)
    await client.post("/score", json=JSON | {"model_version": 4})
    text = (await client.get("/metrics")).text
    for version in "34":
        for name in ("raw_score_count", "infer_seconds_count", "batch_images_sum"):
            assert f'aesthetic_{name}{{version="{version}"}} 1.0' in text


async def test_the_device_is_that_of_a_loaded_model(client: httpx.AsyncClient, triton: TritonStandIn) -> None:
    """`/info` names the device only while the stable version is loaded: before, it is on none."""
    assert (await client.get("/info")).json()["device"] == "gpu"
    triton.unloaded = {"4"}
    assert (await client.get("/info")).json()["device"] == "gpu"
    triton.unloaded = {"3"}
    assert (await client.get("/info")).json()["device"] is None


async def test_health_names_a_canary(client: httpx.AsyncClient) -> None:
    """Health names the canary beside the other parts, once the monitor has looked."""
    parts: dict[str, Any] = {}
    while "canary" not in parts:
        parts = json.loads((await client.get("/health")).text)["parts"]
    assert parts["canary"]["status"] == "ok"
