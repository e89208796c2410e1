"""Versions are switched under a running frontend with a real Triton.

Every score is right, and no request fails.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from reward import manifest
from reward.contract import NETWORK
from reward.deployment import Deployment, Share
from tests.integration.servers import until
from tests.integration.two_versions import BODIES, Versions
from tests.repository import copy_published

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOLERANCE = 1e-4
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def repository(two_networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions with different weights."""
    return copy_published(two_networks, tmp_path_factory.mktemp("two-versions") / "model_repository")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Versions]:
    """Triton and a frontend for all of these tests."""
    async with Versions(repository, tmp_path_factory.mktemp("versions")) as versions:
        yield versions


@pytest_asyncio.fixture(loop_scope="module")
async def versions(running: Versions) -> Versions:
    """Versions as they are at the beginning: version 1 is loaded and answers."""
    await running.serve(1)
    await until(lambda: _is_served(running, {"1"}))
    return running


async def _check(versions: Versions, number: int, **more: Any) -> str:
    """Ask one question, check that the score is that of the named version, return that version."""
    answer = await versions.frontend.client.post("/score", json={**BODIES[number], **more})
    body = answer.json()
    assert answer.status_code == 200, body
    version: str = body["model_version"]
    assert body["model"]["version"] == version
    assert body["raw_score"] == pytest.approx(versions.expected[int(version)][number], abs=TOLERANCE)
    return version


async def test_the_two_networks_differ(versions: Versions) -> None:
    """The two networks give different scores; else no test here could tell which one answered."""
    pairs = zip(versions.expected[1], versions.expected[2], strict=True)
    assert min(abs(one - other) for one, other in pairs) > 10 * TOLERANCE


@pytest.mark.parametrize("turns", [2, pytest.param(25, marks=pytest.mark.slow)])
async def test_switches_under_load_fail_no_request(versions: Versions, turns: int) -> None:
    """Promotions, canaries, shadows and rollbacks fail no request of six callers.

    Each score is that of the version it names.
    """
    seen: Counter[str] = Counter()
    is_over = asyncio.Event()

    async def call(start: int) -> None:
        number = start
        while not is_over.is_set():
            number = (number + 1) % len(BODIES)
            seen[await _check(versions, number)] += 1

    async def switch() -> None:
        for _ in range(turns):
            await versions.serve(2)
            await asyncio.sleep(0.3)
            await versions.serve(2, canary=(1, 0.5))
            await asyncio.sleep(0.5)
            await versions.serve(1, shadow=(2, 1.0))
            await asyncio.sleep(0.3)
            await versions.serve(1)
        is_over.set()

    await asyncio.gather(switch(), *(call(3 * caller) for caller in range(6)))
    assert min(seen["1"], seen["2"]) > 20


async def test_a_canary_by_name_and_by_share(versions: Versions) -> None:
    """A canary's share contains the same questions every time.

    A batch names the version of each result. A version that is asked for by name answers alone.
    """
    await versions.serve(1, canary=(2, 0.5))
    await until(lambda: _is_served(versions, {"1", "2"}))
    chosen = [await _check(versions, number) for number in range(len(BODIES))]
    assert set(chosen) == {"1", "2"}
    assert [await _check(versions, number) for number in range(len(BODIES))] == chosen
    for version in ("1", 2):
        assert await _check(versions, 0, model_version=version) == str(version)
    candidates = [{"image_base64": body["image_base64"]} for body in BODIES[:10]]
    batch = {"prompt": BODIES[0]["prompt"], "candidates": candidates}
    answer = (await versions.frontend.client.post("/score-batch", json=batch)).json()
    assert answer["model"]["version"] == "1"
    assert {one["index"]: one["model_version"] for one in answer["results"]} == dict(enumerate(chosen[:10]))
    for result in answer["results"]:
        expected = versions.expected[int(result["model_version"])][result["index"]]
        assert result["raw_score"] == pytest.approx(expected, abs=TOLERANCE)
    refused = await versions.frontend.client.post("/score", json={**BODIES[0], "model_version": 3})
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_version")
    assert "1 (stable), 2 (canary)" in refused.json()["detail"]


async def test_a_canary_that_triton_does_not_have(versions: Versions) -> None:
    """If Triton does not have the canary, the stable version answers every question.

    Health names the canary, and stays ready.
    """
    directory = versions.repository / NETWORK.name
    (directory / "3").mkdir()
    manifest.write(replace(manifest.read(directory / "1"), precision="another"), directory / "3")
    versions.write(Deployment(1, canary=Share(3, 1.0)))
    await until(lambda: _is_served(versions, {"1", "3"}))
    assert {await _check(versions, number) for number in range(len(BODIES))} == {"1"}
    info = (await versions.frontend.client.get("/info")).json()
    assert [(one["version"], one["role"], one["loaded"]) for one in info["versions"]] == [
        ("1", "stable", True),
        ("3", "canary", False),
    ]

    async def is_told() -> bool:
        health = await versions.frontend.client.get("/health/ready")
        assert health.status_code == 200
        part = health.json()["parts"].get("canary")
        return part is not None and part["status"] == "failing"

    await until(is_told)


async def _is_served(versions: Versions, expected: set[str]) -> bool:
    info = (await versions.frontend.client.get("/info")).json()
    return {one["version"] for one in info["versions"]} == expected
