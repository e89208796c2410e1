"""Requests while several versions are served, or while the version changes."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from frontend.deadline import Deadline
from frontend.errors import ServiceError
from frontend.images.sources import Source
from frontend.metrics import Metrics
from frontend.scoring import shadow
from frontend.scoring.admission import Admission
from frontend.scoring.cache import ScoreCache
from frontend.scoring.errors import UnknownVersion
from frontend.scoring.pipeline import Pipeline, ScoreResult
from frontend.scoring.scorer import Scorer
from frontend.scoring.shadow import Shadow
from frontend.triton.client import TritonClient
from frontend.triton.errors import NotLoaded, NotReady, Rejected
from reward import PreparedImage
from reward.contract import IMAGE_SIZE
from tests.unit.frontend.triton.stand_in import TritonStandIn, deploy, publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

# The whole pipeline is in one process, where a body of more than 1 MiB is copied to the server.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body")

GONE = (400, "Request for unknown model: 'image_reward_network' version 3 is not found")
DEAD = (500, "Stub process 'image_reward_network_0_0' is not healthy.")
REWARDS = {"3": 0.25, "4": 0.5, "5": 1.0}


class Loader:
    """A loader that makes an image of each source's bytes; equal bytes give equal images."""

    @asynccontextmanager
    async def fetched(self, sources: list[Source], deadline: Deadline) -> AsyncIterator[list[bytes]]:
        del deadline
        yield [source.data or b"" for source in sources]

    async def decoded(self, images: list[bytes], deadline: Deadline) -> list[PreparedImage]:
        del deadline
        black = bytearray(3 * IMAGE_SIZE**2)
        names = [hashlib.sha256(image).hexdigest() for image in images]
        return [PreparedImage(black, 1, 1, "PNG", name) for name in names]


class Service:
    """A pipeline before a stand-in for Triton."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics, triton: TritonStandIn, path: Path) -> None:
        self.pipeline = pipeline
        self.metrics = metrics
        self.triton = triton
        self.repository = path

    async def score(self, images: range, version: str | None = None, timeout_s: float = 10) -> ScoreResult:
        return await self.pipeline.score(
            "a cat",
            [Source(data=str(number).encode()) for number in images],
            deadline=Deadline.after(timeout_s),
            request_id="x",
            version=version,
        )

    async def versions(self, images: range, **options: Any) -> list[str]:
        """Return which version answered each image, and check that the score is that version's."""
        answered = []
        for image in (await self.score(images, **options)).images:
            assert not isinstance(image, ServiceError)
            assert image.raw_score == REWARDS[image.version.version]
            answered.append(image.version.version)
        return answered

    def count(self, name: str, **labels: str) -> float:
        return self.metrics._registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    for version in (3, 4, 5):
        publish_manifest(tmp_path, version=version)
    deploy(tmp_path, 3)
    async with _serving(tmp_path, ScoreCache(2**20)) as service:
        yield service


@asynccontextmanager
async def _serving(repository: Path, cache: ScoreCache) -> AsyncIterator[Service]:
    metrics = Metrics()
    async with (
        standing_in() as triton,
        TritonClient(f"127.0.0.1:{triton.port}", repository) as client,
        Shadow(client, metrics) as shadow,
    ):
        triton.rewards = dict(REWARDS)
        pipeline = Pipeline(
            Admission(max_concurrency=1000, max_queue=0),
            Loader(),  # type: ignore[arg-type]
            client,
            Scorer(client, cache, metrics),
            shadow,
            metrics,
        )
        yield Service(pipeline, metrics, triton, repository)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what changes has no event
            await asyncio.sleep(0.01)


# --- Canary ---------------------------------------------------------------------------------


async def test_a_batch_meets_both_versions(service: Service) -> None:
    """A batch makes one request to each version, both at once.

    Each score is that of its version, and the second time nothing changes.
    """
    deploy(service.repository, 3, canary=(4, 0.5))
    result = await service.score(range(20))
    first = await service.versions(range(20))
    assert set(first) == {"3", "4"}
    assert sorted(one["version"] for one in service.triton.inferences) == ["3", "4"]
    assert result.model.version == "3"
    assert [await service.versions(range(n, n + 1)) for n in range(20)] == [[one] for one in first]
    assert (await service.score(range(first.index("4"), first.index("4") + 1))).model.version == "4"


@pytest.mark.parametrize("failure", [GONE, DEAD, (429, "Exceeds maximum queue size"), (400, "bad shape")])
async def test_a_canary_that_fails_fails_no_request(service: Service, failure: tuple[int, str]) -> None:
    """If the canary fails, the stable version answers, and the error counts as the canary's."""
    deploy(service.repository, 3, canary=(4, 0.5))
    service.triton.failures["4"] = failure
    assert await service.versions(range(20)) == ["3"] * 20
    errors = sum(
        sample.value
        for metric in service.metrics.version_errors.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["version"] == "4"
    )
    assert errors == 1
    assert [one["version"] for one in service.triton.inferences].count("3") == 2


async def test_a_canary_that_scores_no_number_fails_no_request(service: Service) -> None:
    """NaN from the canary is its error, and never a score."""
    deploy(service.repository, 3, canary=(4, 1.0))
    service.triton.rewards["4"] = float("nan")
    assert await service.versions(range(3)) == ["3"] * 3
    assert service.count("aesthetic_version_errors_total", version="4", error="Rejected") == 1


async def test_a_canary_that_hangs_leaves_time_for_the_stable_version(service: Service) -> None:
    """The canary gets half of the time that is left of the deadline."""
    deploy(service.repository, 3, canary=(4, 1.0))
    service.triton.held_versions.add("4")
    assert await service.versions(range(3), timeout_s=1) == ["3"] * 3
    assert service.count("aesthetic_version_errors_total", version="4", error="TimedOut") == 1


async def test_a_canary_that_keeps_failing_is_left_alone(service: Service) -> None:
    """After five failures in a row the canary is hardly asked; the stable version answers."""
    deploy(service.repository, 3, canary=(4, 1.0))
    service.triton.failures["4"] = DEAD
    for number in range(20):
        assert await service.versions(range(number, number + 1)) == ["3"]
    assert [one["version"] for one in service.triton.inferences].count("4") == 5


async def test_a_canary_of_other_pixels_is_not_asked(service: Service) -> None:
    """A canary for another preprocessing is not asked, whatever its share is."""
    publish_manifest(service.repository, version=6, preprocessing="another")
    deploy(service.repository, 3, canary=(6, 1.0))
    assert await service.versions(range(5)) == ["3"] * 5


async def test_stable_failures_are_failures(service: Service) -> None:
    """If the stable version fails, nobody answers for it."""
    deploy(service.repository, 3, canary=(4, 0.5))
    service.triton.failures["3"] = DEAD
    with pytest.raises(NotReady):
        await service.score(range(20))


# --- A version by name ----------------------------------------------------------------------


async def test_a_version_that_is_asked_for_answers(service: Service) -> None:
    """A version that is asked for by name answers alone, whatever its share is."""
    deploy(service.repository, 3, canary=(4, 0.01), shadow=(5, 0.01))
    for version in ("3", "4", "5"):
        assert await service.versions(range(5), version=version) == [version] * 5
    service.triton.failures["4"] = (400, "bad shape")
    with pytest.raises(Rejected):
        await service.score(range(10, 12), version="4")


async def test_a_version_that_is_not_served(service: Service) -> None:
    """A version that is not served is refused with a list of the served ones.

    Nothing is decoded or asked.
    """
    deploy(service.repository, 3, canary=(4, 0.5))
    with pytest.raises(
        UnknownVersion, match=r"version 5 is not served; served are 3 \(stable\), 4 \(canary\)"
    ):
        await service.score(range(1), version="5")
    assert service.triton.inferences == []


async def test_a_version_that_is_served_since_a_moment_ago(service: Service) -> None:
    """Before a version is refused, the deployment is read again."""
    assert await service.versions(range(1)) == ["3"]
    deploy(service.repository, 4)
    assert await service.versions(range(1), version="4") == ["4"]


# --- Promotion ------------------------------------------------------------------------------


async def test_a_version_that_is_gone_is_replaced(service: Service) -> None:
    """If Triton has just dropped the version, the same request asks the new one."""
    assert await service.versions(range(1)) == ["3"]
    deploy(service.repository, 4)
    service.triton.failures["3"] = GONE
    assert await service.versions(range(1, 5)) == ["4"] * 4
    assert [one["version"] for one in service.triton.inferences] == ["3", "3", "4"]


async def test_a_model_that_is_nowhere_is_asked_twice(service: Service) -> None:
    """If the version is gone and no other has come, the request fails soon."""
    service.triton.failure = GONE
    with pytest.raises(NotLoaded):
        await service.score(range(1))
    assert len(service.triton.inferences) == 2


async def test_the_cache_never_answers_for_another_version(service: Service) -> None:
    """After a promotion, a canary and a rollback, every score is that of the version it names.

    Scores of a version that was served before are still known.
    """
    for deployment, expected in (
        ((3, {}), {"3"}),
        ((4, {}), {"4"}),
        ((3, {}), {"3"}),
        ((3, {"canary": (4, 0.5)}), {"3", "4"}),
        ((3, {"canary": (5, 0.5)}), {"3", "5"}),
        ((5, {}), {"5"}),
        ((4, {}), {"4"}),
    ):
        stable, others = deployment
        deploy(service.repository, stable, **others)
        service.pipeline._client.start_afresh()
        assert set(await service.versions(range(20))) == expected
    asked = len(service.triton.inferences)
    assert set(await service.versions(range(20))) == {"4"}
    assert len(service.triton.inferences) == asked


# --- Identical questions --------------------------------------------------------------------


async def test_the_same_question_at_once_is_scored_once(service: Service) -> None:
    """Fifty requests with one image make one inference, even if the first request leaves."""
    await service.versions(range(100, 101))
    service.triton.open.clear()
    tasks = [asyncio.create_task(service.score(range(1))) for _ in range(50)]
    await _until(lambda: len(service.triton.inferences) == 2)
    tasks[0].cancel()
    service.triton.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    scores = [result.images[0] for result in results if isinstance(result, ScoreResult)]
    assert len(scores) == 49
    assert {image.raw_score for image in scores if not isinstance(image, ServiceError)} == {0.25}
    assert len(service.triton.inferences) == 2
    assert service.count("aesthetic_cache_total", result="shared") == 49


async def test_without_a_cache_every_question_is_scored(service: Service) -> None:
    """With the cache turned off, nothing is shared either."""
    async with _serving(service.repository, ScoreCache(0)) as other:
        await asyncio.gather(*(other.score(range(1)) for _ in range(10)))
        assert other.triton.scored["3"] == 10


# --- Shadow ---------------------------------------------------------------------------------


async def test_a_shadow_is_compared_and_answers_nothing(service: Service) -> None:
    """The shadow scores its share with the lowest priority, and the differences are recorded."""
    deploy(service.repository, 3, shadow=(5, 0.5))
    assert await service.versions(range(20)) == ["3"] * 20
    await _until(lambda: service.count("aesthetic_shadow_images_total", version="5", result="compared") > 0)
    await _until(service.pipeline._shadow._waiting.empty)
    compared = [one for one in service.triton.inferences if one["version"] == "5"]
    assert 3 < len(compared) < 17
    assert {one["parameters"]["priority"] for one in compared} == {2}
    await _until(lambda: service.count("aesthetic_shadow_difference_count", version="5") == len(compared))
    total = service.count("aesthetic_shadow_difference_sum", version="5")
    assert total == pytest.approx(0.75 * len(compared))
    assert await service.versions(range(20)) == ["3"] * 20  # known: not compared a second time
    assert [one["version"] for one in service.triton.inferences].count("5") == len(compared)


async def test_a_shadow_that_hangs_delays_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shadow that hangs delays no answer.

    Questions without room are dropped and counted.
    """
    monkeypatch.setattr(shadow, "_MAX_WAITING", 4)
    deploy(service.repository, 3, shadow=(5, 1.0))
    async with _serving(service.repository, ScoreCache(2**20)) as other:
        other.triton.held_versions.add("5")
        assert await other.versions(range(10)) == ["3"] * 10
        dropped = other.count("aesthetic_shadow_images_total", version="5", result="dropped")
        assert dropped == 6


async def test_a_shadow_that_fails_fails_nothing(service: Service) -> None:
    """The shadow's errors are counted, and the next image is still compared."""
    deploy(service.repository, 3, shadow=(5, 1.0))
    service.triton.failures["5"] = (400, "bad shape")
    assert await service.versions(range(3)) == ["3"] * 3
    await _until(lambda: service.count("aesthetic_shadow_images_total", version="5", result="failed") == 3)
    assert service.count("aesthetic_version_errors_total", version="5", error="Rejected") == 3
    del service.triton.failures["5"]
    assert await service.versions(range(3, 4)) == ["3"]
    await _until(lambda: service.count("aesthetic_shadow_difference_count", version="5") == 1)
