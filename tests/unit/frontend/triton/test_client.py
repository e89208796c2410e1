"""What the frontend sends to Triton, and what it makes of Triton's failures."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded, Internal, ModelUnavailable, Overloaded, ServiceError
from frontend.scoring.health import HealthProbe
from frontend.triton.circuit import Circuit
from frontend.triton.client import Scorer, Served
from reward.tokenise import tokenise
from tests.unit.frontend.triton.stand_in import TritonStandIn, publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def triton() -> AsyncIterator[TritonStandIn]:
    async with standing_in() as triton:
        yield triton


@pytest.fixture
async def scorer(triton: TritonStandIn, tmp_path: Path) -> AsyncIterator[Scorer]:
    async with _scorer(triton.port, publish_manifest(tmp_path)) as scorer:
        yield scorer


@asynccontextmanager
async def _scorer(port: int, repository: Path, *, open_s: float = 0.2) -> AsyncIterator[Scorer]:
    async with Scorer(f"127.0.0.1:{port}", repository) as scorer:
        scorer._inference = Circuit(open_s=open_s)
        scorer._metadata = Circuit(open_s=open_s)
        yield scorer


async def _score(scorer: Scorer, images: int = 1, timeout_s: float = 10, **options: Any) -> list[float]:
    deadline = Deadline.after(timeout_s)
    served = await scorer.served(deadline)
    return await _infer(scorer, served, images, deadline, **options)


async def _infer(
    scorer: Scorer, served: Served, images: int, deadline: Deadline, **options: Any
) -> list[float]:
    tokens = tokenise(["x"] * images)
    pixels = np.zeros((images, 3, 224, 224), np.uint8)
    return await scorer.score(
        pixels, tokens.input_ids, tokens.attention_mask, served=served, deadline=deadline, **options
    )


async def test_what_triton_is_asked(scorer: Scorer, triton: TritonStandIn) -> None:
    """One request for a batch: explicit version, request id, interactive priority, the rest of the deadline."""
    assert await _score(scorer, images=3, timeout_s=10, request_id="abc-1") == [0.5, 0.5, 0.5]
    (asked,) = triton.inferences
    assert asked["id"] == "abc-1"
    assert asked["parameters"]["priority"] == 1
    assert 9e6 < asked["parameters"]["timeout"] <= 10e6  # microseconds
    assert [entry["shape"][0] for entry in asked["inputs"]] == [3, 3, 3]
    assert (await scorer.served(Deadline.after(1))).version == "3"


# Texts of Triton 2.51's answers, where they are Triton's.
UNKNOWN = "Request for unknown model: 'image_reward_network' version 3 is not at ready state"
STUB = (
    "Failed to process the request(s) for model instance 'image_reward_network_0_0', message: "
    "Stub process 'image_reward_network_0_0' is not healthy."
)
FAILURES: list[tuple[int, str, type[ServiceError]]] = [
    (400, UNKNOWN, ModelUnavailable),
    (404, "Request for unknown model: 'image_reward_network' is not found", ModelUnavailable),
    (400, "Request for unknown model: 'x' has no available versions", ModelUnavailable),
    (500, STUB, ModelUnavailable),
    (503, "Server exiting", ModelUnavailable),
    (502, "<html>bad gateway</html>", ModelUnavailable),
    (400, "unexpected shape for input 'PIXELS' for model 'image_reward_network'", Internal),
    (400, "INPUT_IDS must lie in 0..30523", Internal),
    (500, "internal error; see the server's log", Internal),
    (429, "Exceeds maximum queue size", Overloaded),
    (503, "Exceeds maximum queue size", Overloaded),
    (503, "Request timeout expired", DeadlineExceeded),
]


@pytest.mark.parametrize(("status", "text", "expected"), FAILURES)
async def test_failures_in_our_terms(
    scorer: Scorer, triton: TritonStandIn, status: int, text: str, expected: type[ServiceError]
) -> None:
    """Not there is model_unavailable, refused is internal, full is overloaded, late is the deadline's."""
    triton.failure = (status, text)
    with pytest.raises(expected) as caught:
        await _score(scorer)
    assert text not in caught.value.detail
    assert text in (caught.value.internal or "")
    if expected in {ModelUnavailable, Overloaded}:
        assert (caught.value.retry_after_s or 0) >= 1


async def test_a_score_that_is_no_number(scorer: Scorer, triton: TritonStandIn) -> None:
    """NaN from the model is a defect, never a score."""
    triton.reward = float("nan")
    with pytest.raises(Internal):
        await _score(scorer)


async def test_a_dead_triton_is_left_alone_and_found_again(tmp_path: Path) -> None:
    """After five failures hardly any call reaches Triton; once it is back so are the scores, by themselves."""
    async with standing_in() as triton:
        port = triton.port
        async with _scorer(port, publish_manifest(tmp_path)) as scorer:
            triton.failure = (500, STUB)
            for _ in range(50):
                with pytest.raises(ModelUnavailable):
                    await _score(scorer)
            assert len(triton.inferences) == 5
            assert scorer.is_cut_off
            await asyncio.sleep(0.25)
            for _ in range(50):
                with pytest.raises(ModelUnavailable):
                    await _score(scorer)
            assert len(triton.inferences) == 6  # the one that tried
            triton.failure = None
            await asyncio.sleep(0.25)
            assert await _score(scorer) == [0.5]
            assert not scorer.is_cut_off


async def test_a_triton_that_is_not_there(tmp_path: Path) -> None:
    """Connections refused are model_unavailable, soon without trying; a server that starts is found."""
    async with standing_in() as triton:
        port = triton.port
    async with _scorer(port, publish_manifest(tmp_path)) as scorer:
        for _ in range(10):
            with pytest.raises(ModelUnavailable):
                await _score(scorer)
        async with standing_in(port) as triton:
            assert triton.asked == []
            await asyncio.sleep(0.25)
            assert await _score(scorer) == [0.5]


async def test_a_triton_that_accepts_and_never_answers(scorer: Scorer, triton: TritonStandIn) -> None:
    """Each caller's own deadline holds, be it while the version is asked for or while the image is scored."""
    served = await scorer.served(Deadline.after(10))
    triton.open.clear()
    with pytest.raises(DeadlineExceeded):
        await _infer(scorer, served, 1, Deadline.after(0.1))
    scorer._served = None
    callers = [_score(scorer, timeout_s=0.1 * count) for count in (1, 2, 3)]
    outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 3


async def test_the_version_is_asked_for_once_for_all(scorer: Scorer, triton: TritonStandIn) -> None:
    """Fifty requests at once share one question, and one that leaves does not take it from the others."""
    triton.open.clear()
    callers = [asyncio.create_task(scorer.served(Deadline.after(10))) for _ in range(50)]
    await asyncio.sleep(0.05)
    callers[0].cancel()
    triton.open.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert {outcome.version for outcome in outcomes if isinstance(outcome, Served)} == {"3"}
    assert len([outcome for outcome in outcomes if isinstance(outcome, Served)]) == 49
    assert triton.asked.count("/v2") == 1


async def test_a_version_published_for_other_preprocessing(triton: TritonStandIn, tmp_path: Path) -> None:
    """Weights that were published for other pixels are not used: no score is better than a wrong one."""
    repository = publish_manifest(tmp_path, preprocessing="another")
    async with _scorer(triton.port, repository) as scorer:
        with pytest.raises(ModelUnavailable, match="another preprocessing"):
            await _score(scorer)
    assert triton.inferences == []


# --- Health, which asks through the same scorer --------------------------------------------------------------


class Pool:
    """A decode pool that hands out one grey pixel, or fails."""

    def __init__(self) -> None:
        self.error: ServiceError | None = None

    async def decode(self, data: bytes, *, timeout_s: float) -> Any:
        from frontend.images.decode import DecodeLimits, decode_image

        del timeout_s
        if self.error is not None:
            raise self.error
        return decode_image(data, DecodeLimits())


def _probe(scorer: Scorer, pool: Pool | None = None, timeout_s: float = 5) -> HealthProbe:
    return HealthProbe(pool or Pool(), scorer, timeout_s=timeout_s)  # type: ignore[arg-type]


async def test_health_scores_one_pixel_and_remembers_it(scorer: Scorer, triton: TritonStandIn) -> None:
    """A hundred who ask at once cost one inference."""
    probe = _probe(scorer)
    found = await asyncio.gather(*(probe.check() for _ in range(100)))
    assert all(health.ready for health in found)
    assert len(triton.inferences) == 1


async def test_health_names_the_part_that_fails(scorer: Scorer, triton: TritonStandIn) -> None:
    """Triton gone, the model dead and the decoder dead are told apart; a request's failure is noticed at once."""
    assert (await _probe(scorer).check()).ready
    probe = _probe(scorer)
    await probe.check()
    triton.failure = (500, STUB)
    with pytest.raises(ModelUnavailable):
        await _score(scorer)
    health = await probe.check()  # though it was ready less than a second ago
    assert (health.decode, health.triton) == (None, None)
    assert health.model is not None
    scorer._served = None
    triton.metadata_failure = (503, "Server exiting")
    assert (await _probe(scorer).check()).triton is not None
    pool = Pool()
    pool.error = Internal("no decoder")
    assert (await _probe(scorer, pool).check()).decode == "no decoder"


async def test_a_busy_model_is_alive(scorer: Scorer, triton: TritonStandIn) -> None:
    """A probe that is late while others are being scored is no failure; late and alone, it is one."""
    triton.held.add("")  # the probe's own request has no id
    late = asyncio.create_task(_probe(scorer, timeout_s=3).check())
    await asyncio.sleep(0.1)
    assert await _score(scorer, request_id="somebody") == [0.5]
    assert (await late).ready
    assert (await _probe(scorer, timeout_s=0.2).check()).model is not None


async def test_what_is_promised_needs_no_loaded_model(scorer: Scorer, tmp_path: Path) -> None:
    """The version that will be served is the repository's word; Triton only has to be there."""
    config = tmp_path / "image_reward_network" / "config.pbtxt"
    config.write_text("version_policy: { specific: { versions: [ 3 ] } }")
    promised = await scorer.promised(Deadline.after(10))
    assert (promised.version, promised.manifest.name, promised.device) == ("3", "stand-in", None)
    config.write_text("version_policy: { latest: { num_versions: 1 } }")
    with pytest.raises(ModelUnavailable, match="no version is promoted"):
        await scorer.promised(Deadline.after(10))


async def test_what_is_promised_is_asked_on_a_connection_of_its_own(
    scorer: Scorer, triton: TritonStandIn, tmp_path: Path
) -> None:
    """One that was kept alive would hang while Triton loads the model for another frontend."""
    config = tmp_path / "image_reward_network" / "config.pbtxt"
    config.write_text("version_policy: { specific: { versions: [ 3 ] } }")
    for _ in range(2):
        await scorer.promised(Deadline.after(10))
    first, second = triton.connections
    assert first is not second


async def test_a_model_that_was_loaded_anew_is_asked_at_once(triton: TritonStandIn, scorer: Scorer) -> None:
    """What failed before the load says nothing about the model that is loaded now."""
    triton.failure = (503, "not ready")
    for _ in range(5):
        with pytest.raises(ModelUnavailable):
            await _score(scorer)
    assert scorer.is_cut_off
    triton.failure = None
    scorer.start_afresh()
    assert await _score(scorer) == [0.5]
