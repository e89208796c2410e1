"""What the frontend sends to Triton, and how it reads Triton's failures."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from frontend.deadline import Deadline
from frontend.triton.circuit import Circuit
from frontend.triton.client import TritonClient
from frontend.triton.errors import NotLoaded, NotReady, QueueFull, Rejected, TimedOut, Unavailable
from frontend.triton.served import Served, ServedVersion
from reward import deployment
from reward.tokenizer import tokenise
from tests.unit.frontend.triton.stand_in import TritonStandIn, deploy, publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from frontend.errors import ServiceError


@pytest.fixture
async def triton() -> AsyncIterator[TritonStandIn]:
    async with standing_in() as triton:
        yield triton


@pytest.fixture
async def client(triton: TritonStandIn, tmp_path: Path) -> AsyncIterator[TritonClient]:
    async with _client(triton.port, publish_manifest(tmp_path)) as client:
        yield client


async def test_headers_of_the_moment_are_sent_with_an_inference(
    triton: TritonStandIn, tmp_path: Path
) -> None:
    """An inference has the headers that its caller gives at that moment, and none without any."""
    given: list[dict[str, str] | None] = [{"traceparent": "first"}, None]
    url, repository = f"127.0.0.1:{triton.port}", publish_manifest(tmp_path)
    async with TritonClient(url, repository, headers=lambda: given.pop(0)) as client:
        await _score(client)
        await _score(client)
    assert [headers.get("traceparent") for headers in triton.headers] == ["first", None]


@asynccontextmanager
async def _client(port: int, repository: Path, *, open_s: float = 0.2) -> AsyncIterator[TritonClient]:
    async with TritonClient(
        f"127.0.0.1:{port}", repository, new_circuit=lambda: Circuit(open_s=open_s)
    ) as client:
        yield client


async def _score(client: TritonClient, images: int = 1, timeout_s: float = 10, **options: Any) -> list[float]:
    deadline = Deadline.after(timeout_s)
    served = await client.served(deadline)
    return await _infer(client, served.stable, images, deadline, **options)


async def _infer(
    client: TritonClient, version: ServedVersion, images: int, deadline: Deadline, **options: Any
) -> list[float]:
    tokens = tokenise(["x"] * images)
    pixels = np.zeros((images, 3, 224, 224), np.uint8)
    return await client.score(
        pixels, tokens.input_ids, tokens.attention_mask, version=version, deadline=deadline, **options
    )


async def test_what_triton_is_asked(client: TritonClient, triton: TritonStandIn) -> None:
    """A batch is one request to Triton.

    It has an explicit version, the request's id, interactive priority, and the rest of the
    deadline.
    """
    assert await _score(client, images=3, timeout_s=10, request_id="abc-1") == [0.5, 0.5, 0.5]
    (asked,) = triton.inferences
    assert asked["id"] == "abc-1"
    assert asked["parameters"]["priority"] == 1
    assert 9e6 < asked["parameters"]["timeout"] <= 10e6  # microseconds
    assert [entry["shape"][0] for entry in asked["inputs"]] == [3, 3, 3]
    assert asked["version"] == "3"


async def test_callers_of_a_busy_version_are_one_request(client: TritonClient, triton: TritonStandIn) -> None:
    """Those who ask while a version scores go together; the other version is free for its own."""
    stable = (await client.served(Deadline.after(10))).stable
    triton.open.clear()
    other = replace(stable, version="4")
    callers = [
        asyncio.create_task(_infer(client, version, images, Deadline.after(10)))
        for version, images in ((stable, 1), (stable, 2), (other, 1), (stable, 3))
    ]
    await asyncio.sleep(0.1)
    triton.open.set()
    assert await asyncio.gather(*callers) == [[0.5], [0.5] * 2, [0.5], [0.5] * 3]
    sent = [(one["version"], one["inputs"][0]["shape"][0]) for one in triton.inferences]
    assert sent == [("3", 1), ("4", 1), ("3", 5)]


# The texts that come from Triton are those of Triton 2.51.
UNKNOWN = "Request for unknown model: 'image_reward_network' version 3 is not at ready state"
STUB = (
    "Failed to process the request(s) for model instance 'image_reward_network_0_0', message: "
    "Stub process 'image_reward_network_0_0' is not healthy."
)
FAILURES: list[tuple[int, str, type[ServiceError]]] = [
    (400, UNKNOWN, NotLoaded),
    (503, UNKNOWN, NotLoaded),
    (404, "Request for unknown model: 'image_reward_network' is not found", NotLoaded),
    (400, "Request for unknown model: 'x' has no available versions", NotLoaded),
    (500, STUB, NotReady),
    (503, "Server exiting", NotReady),
    (502, "<html>bad gateway</html>", NotReady),
    (400, "unexpected shape for input 'PIXELS' for model 'image_reward_network'", Rejected),
    (400, "INPUT_IDS must lie in 0..30523", Rejected),
    (500, "internal error; see the server's log", Rejected),
    (429, "Exceeds maximum queue size", QueueFull),
    (503, "Exceeds maximum queue size", QueueFull),
    (503, "Request timeout expired", TimedOut),
]


@pytest.mark.parametrize(("status", "text", "expected"), FAILURES)
async def test_failures_in_our_terms(
    client: TritonClient, triton: TritonStandIn, status: int, text: str, expected: type[ServiceError]
) -> None:
    """Each failure of Triton becomes the matching error.

    A model that is not there is NotLoaded, a broken one NotReady, a refused request Rejected, a
    full queue QueueFull, and a late answer TimedOut.
    """
    triton.failure = (status, text)
    with pytest.raises(expected) as caught:
        await _score(client)
    assert text not in caught.value.detail
    assert text in (caught.value.internal or "")
    assert isinstance(caught.value, NotLoaded) == (expected is NotLoaded)
    if expected in {NotReady, NotLoaded, QueueFull}:
        assert (caught.value.retry_after_s or 0) >= 1


async def test_a_score_that_is_no_number(client: TritonClient, triton: TritonStandIn) -> None:
    """NaN from the model is a defect, never a score."""
    triton.reward = float("nan")
    with pytest.raises(Rejected):
        await _score(client)


async def test_what_is_too_large_for_triton_is_sent_in_parts(
    client: TritonClient, triton: TritonStandIn
) -> None:
    """Triton's refusal says how many rows fit; from then on no request has more."""
    triton.max_rows = 4
    assert await _score(client, 6) == [0.5] * 6
    assert await _score(client, 5) == [0.5] * 5
    assert [one["inputs"][0]["shape"][0] for one in triton.inferences] == [6, 4, 2, 4, 1]


async def test_the_parts_share_one_deadline(client: TritonClient, triton: TritonStandIn) -> None:
    """A batch in parts ends when its time is over, whichever part is being scored."""
    triton.max_rows = 1
    await _score(client, 2)
    triton.open.clear()
    with pytest.raises(TimedOut):
        await _score(client, 2, max_wait_s=0.1)


async def test_a_refusal_that_names_no_smaller_batch_is_a_defect(
    client: TritonClient, triton: TritonStandIn
) -> None:
    """A request is not sent again and again if Triton refuses even what it said would fit."""
    triton.failure = (400, "inference request batch-size must be <= 4 for 'image_reward_network'")
    with pytest.raises(Rejected):
        await _score(client, 6)
    assert len(triton.inferences) == 2


async def test_how_many_images_were_scored_is_known(client: TritonClient, tmp_path: Path) -> None:
    """Triton's own count is read; a Triton that is not there knows nothing."""
    await _score(client, 3)
    served = await client.served(Deadline.after(5))
    assert await client.inferences(served.stable) == 3
    async with _client(1, tmp_path) as other:
        assert await other.inferences(served.stable) is None


async def test_a_dead_triton_is_left_alone_and_found_again(tmp_path: Path) -> None:
    """After five failures hardly any call reaches Triton.

    Once Triton works again, so does scoring, without help.
    """
    async with standing_in() as triton:
        port = triton.port
        async with _client(port, publish_manifest(tmp_path)) as client:
            triton.failure = (500, STUB)
            for _ in range(50):
                with pytest.raises(Unavailable):
                    await _score(client)
            assert len(triton.inferences) == 5
            assert client.is_cut_off
            await asyncio.sleep(0.25)
            for _ in range(50):
                with pytest.raises(Unavailable):
                    await _score(client)
            assert len(triton.inferences) == 6  # the one that tried
            triton.failure = None
            await asyncio.sleep(0.25)
            assert await _score(client) == [0.5]
            assert not client.is_cut_off


async def test_a_triton_that_is_not_there(tmp_path: Path) -> None:
    """Refused connections are Unavailable, and after a few of them no connection is tried.

    A server that starts later is found.
    """
    async with standing_in() as triton:
        port = triton.port
    async with _client(port, publish_manifest(tmp_path)) as client:
        for _ in range(10):
            with pytest.raises(Unavailable):
                await _score(client)
        async with standing_in(port) as triton:
            assert triton.asked == []
            await asyncio.sleep(0.25)
            assert await _score(client) == [0.5]


async def test_a_triton_that_accepts_and_never_answers(client: TritonClient, triton: TritonStandIn) -> None:
    """Each caller's own deadline holds, while the version is asked for and while it scores."""
    served = await client.served(Deadline.after(10))
    triton.open.clear()
    with pytest.raises(TimedOut):
        await _infer(client, served.stable, 1, Deadline.after(0.1))
    client._served = None
    callers = [_score(client, timeout_s=0.1 * count) for count in (1, 2, 3)]
    outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [TimedOut] * 3


async def test_the_version_is_asked_for_once_for_all(client: TritonClient, triton: TritonStandIn) -> None:
    """Fifty requests at once share one question for the version.

    If one of them leaves, the others still get the answer.
    """
    triton.open.clear()
    callers = [asyncio.create_task(client.served(Deadline.after(10))) for _ in range(50)]
    await asyncio.sleep(0.05)
    callers[0].cancel()
    triton.open.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    versions = [outcome.stable.version for outcome in outcomes if isinstance(outcome, Served)]
    assert versions == ["3"] * 49
    assert triton.asked.count("/v2") == 1


async def test_a_version_published_for_other_preprocessing(triton: TritonStandIn, tmp_path: Path) -> None:
    """Weights published for another preprocessing are not used: no score beats a wrong score."""
    repository = publish_manifest(tmp_path, preprocessing="another")
    async with _client(triton.port, repository) as client:
        with pytest.raises(Unavailable, match="another preprocessing"):
            await _score(client)
    assert triton.inferences == []


async def test_nothing_that_is_served(client: TritonClient, tmp_path: Path) -> None:
    """If the deployment cannot be read, the model is unavailable, in plain words."""
    deployment.path(tmp_path).parent.mkdir()
    deployment.path(tmp_path).write_text("{")
    with pytest.raises(NotReady, match="no version of the model is served") as caught:
        await client.served(Deadline.after(10))
    assert str(tmp_path) in (caught.value.internal or "")


async def test_what_is_served_is_asked_on_a_connection_of_its_own(
    client: TritonClient, triton: TritonStandIn
) -> None:
    """The question for what is served opens a new connection.

    A connection kept alive would hang while Triton loads the model for another frontend.
    """
    for _ in range(2):
        await client.served(Deadline.after(10))
        client.start_afresh()
    first, second = triton.connections
    assert first is not second


async def test_a_model_that_is_not_loaded_says_nothing_against_triton(
    triton: TritonStandIn, client: TritonClient
) -> None:
    """The answer "not loaded" never opens the circuit: the model is loaded instead."""
    triton.failure = (503, UNKNOWN)
    for _ in range(20):
        with pytest.raises(NotLoaded):
            await _score(client)
    assert not client.is_cut_off


async def test_a_model_that_was_loaded_anew_is_asked_at_once(
    triton: TritonStandIn, client: TritonClient
) -> None:
    """After a load the model is asked at once; earlier failures do not count against it."""
    triton.failure = (500, STUB)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await _score(client)
    assert client.is_cut_off
    triton.failure = None
    client.start_afresh()
    assert await _score(client) == [0.5]


async def test_the_version_is_forgotten_after_a_failure(client: TritonClient, triton: TritonStandIn) -> None:
    """After a failure the next request asks again which version is served.

    The model may have been replaced.
    """
    await client.served(Deadline.after(10))
    await client.served(Deadline.after(10))
    assert triton.asked.count("/v2") == 1
    triton.failure = (500, STUB)
    with pytest.raises(NotReady):
        await _score(client)
    asked = triton.asked.count("/v2")
    await client.served(Deadline.after(10))
    assert triton.asked.count("/v2") == asked + 1


async def test_whether_scores_were_given_lately(client: TritonClient, triton: TritonStandIn) -> None:
    """A success counts within the time asked about, until something fails."""
    stable = (await client.served(Deadline.after(10))).stable
    assert not client.has_succeeded_within(60, stable)
    await _score(client)
    assert client.has_succeeded_within(60, stable)
    assert not client.has_succeeded_within(0, stable)
    triton.failure = (500, STUB)
    with pytest.raises(NotReady):
        await _score(client)
    assert not client.has_succeeded_within(60, stable)


async def test_an_open_circuit_refuses_before_any_work(client: TritonClient, triton: TritonStandIn) -> None:
    """While inferences fail, `check` refuses, but what is served may still be asked for."""
    stable = (await client.served(Deadline.after(10))).stable
    client.check(stable)
    triton.failure = (500, STUB)
    for _ in range(5):
        with pytest.raises(NotReady):
            await _score(client)
    with pytest.raises(Unavailable):
        client.check(stable)
    assert (await client.served(Deadline.after(10))).stable.version == "3"


async def test_a_failing_version_leaves_the_other_alone(triton: TritonStandIn, tmp_path: Path) -> None:
    """While the canary's circuit is open, the stable version is asked as before."""
    publish_manifest(publish_manifest(tmp_path), version=4)
    deploy(tmp_path, 3, canary=(4, 0.5))
    triton.failures["4"] = (500, STUB)
    async with _client(triton.port, tmp_path) as client:
        served = await client.served(Deadline.after(10))
        assert served.canary is not None
        for _ in range(10):
            with pytest.raises(Unavailable):
                await _infer(client, served.canary, 1, Deadline.after(10))
            client.check(served.stable)
            assert await _infer(client, served.stable, 1, Deadline.after(10)) == [0.5]
        assert [one["version"] for one in triton.inferences].count("4") == 5


async def test_a_version_that_hangs_is_failing(
    client: TritonClient, triton: TritonStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that had enough time and did not answer is not ready.

    With little time it was only late.
    """
    stable = (await client.served(Deadline.after(10))).stable
    triton.open.clear()
    with pytest.raises(TimedOut):
        await _infer(client, stable, 1, Deadline.after(10), max_wait_s=0.05)
    monkeypatch.setattr("frontend.triton.client._HANGS_S", 0.05)
    with pytest.raises(NotReady):
        await _infer(client, stable, 1, Deadline.after(10), max_wait_s=0.05)
    with pytest.raises(TimedOut):
        await _infer(client, stable, 1, Deadline.after(0.04), max_wait_s=0.05)
