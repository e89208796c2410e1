"""What the health monitor publishes, and how often it looks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded, ServiceError
from frontend.images.errors import DecoderStopped
from frontend.scoring import health
from frontend.scoring.health import Health, HealthMonitor, pause_s
from frontend.triton.circuit import Circuit
from frontend.triton.client import TritonClient
from frontend.triton.errors import NotReady
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.unit.frontend.triton.stand_in import TritonStandIn, deploy, publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

DEAD = (500, "Stub process 'image_reward_network_0_0' is not healthy.")


class Pool:
    """A decode pool that returns one pixel or fails."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = 0

    async def decode(self, source: bytes, *, timeout_s: float) -> Any:
        del timeout_s
        self.asked += 1
        if self.error is not None:
            raise self.error
        return prepare(source)


@pytest.fixture
async def triton() -> AsyncIterator[TritonStandIn]:
    async with standing_in() as triton:
        yield triton


@pytest.fixture
async def client(triton: TritonStandIn, tmp_path: Path) -> AsyncIterator[TritonClient]:
    async with TritonClient(f"127.0.0.1:{triton.port}", publish_manifest(tmp_path)) as client:
        yield client


def _monitor(client: TritonClient, pool: Pool | None = None, timeout_s: float = 5) -> HealthMonitor:
    return HealthMonitor(pool or Pool(), client, timeout_s=timeout_s)  # type: ignore[arg-type]


async def _found(monitor: HealthMonitor) -> Health:
    await monitor.look()
    return monitor.health


async def _score(client: TritonClient, request_id: str = "somebody") -> None:
    deadline = Deadline.after(10)
    served = await client.served(deadline)
    tokens = tokenise([""])
    pixels = prepare(_monitor(client)._pixel).pixels[None]
    await client.score(
        pixels,
        tokens.input_ids,
        tokens.attention_mask,
        version=served.stable,
        deadline=deadline,
        request_id=request_id,
    )


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what changes has no event
            await asyncio.sleep(0.01)


async def test_it_looks_by_itself_and_reading_costs_nothing(
    client: TritonClient, triton: TritonStandIn
) -> None:
    """The monitor looks by itself, and nothing is ready before its first look.

    Reading its result causes no inference.
    """
    monitor = _monitor(client)
    assert not monitor.health.ready
    async with monitor:
        await _until(lambda: monitor.health.ready)
        assert all(monitor.health.ready for _ in range(100))
        assert len(triton.inferences) == 1


async def test_it_names_the_part_that_fails(client: TritonClient, triton: TritonStandIn) -> None:
    """A missing Triton, a dead model and a dead decoder are told apart."""
    assert await _found(_monitor(client)) == Health()
    triton.failure = DEAD
    with pytest.raises(NotReady):
        await _score(client)
    found = await _found(_monitor(client))
    assert (found.decode, found.triton) == (None, None)
    assert found.model is not None
    client._served = None
    triton.metadata_failure = (503, "Server exiting")
    found = await _found(_monitor(client))
    assert (found.decode, found.model) == (None, None)
    assert found.triton is not None
    pool = Pool()
    pool.error = DecoderStopped("no decoder")
    assert (await _found(_monitor(client, pool))).decode == "no decoder"


async def test_an_open_circuit_is_the_models_trouble(client: TritonClient, triton: TritonStandIn) -> None:
    """While the circuit is open, no inferences are tried, but Triton itself answers.

    Health then names the model.
    """
    triton.failure = DEAD
    client._new_circuit = lambda: Circuit(open_s=60)
    for _ in range(5):
        with pytest.raises(NotReady):
            await _score(client)
    assert client.is_cut_off
    found = await _found(_monitor(client))
    assert found.triton is None
    assert found.model is not None


async def test_a_canary_that_fails_is_named_and_changes_nothing(
    client: TritonClient, triton: TritonStandIn, tmp_path: Path
) -> None:
    """Health names what is wrong with the canary and the shadow.

    "Ready" depends only on the stable version.
    """
    publish_manifest(tmp_path, version=4)
    publish_manifest(tmp_path, version=5, preprocessing="another")
    deploy(tmp_path, 3, canary=(4, 0.5), shadow=(5, 0.5))
    triton.failures["4"] = DEAD
    found = await _found(_monitor(client))
    assert found.ready
    assert found.beside["canary"] == "the model is not ready"
    assert "another preprocessing" in (found.beside["shadow"] or "")
    del triton.failures["4"]
    triton.failures["3"] = DEAD
    client.start_afresh()
    found = await _found(_monitor(client))
    assert not found.ready
    assert found.beside["canary"] is None


async def test_a_part_is_asked_for_by_name(client: TritonClient) -> None:
    """Of each part, a canary and a shadow too, one can ask whether it fails."""
    monitor = _monitor(client)
    monitor.health = Health(model="dead", beside={"canary": "dead", "shadow": None})
    assert [part for part in health.PARTS if monitor.is_failing(part)] == ["model", "canary"]
    monitor.health = Health()
    assert not any(monitor.is_failing(part) for part in health.PARTS)


async def test_busy_decode_workers_are_not_failing(client: TritonClient) -> None:
    """If all workers are too busy for the monitor's pixel, the decoder counts as working."""
    pool = Pool()
    pool.error = DeadlineExceeded("the deadline passed before the image was decoded")
    assert await _found(_monitor(client, pool)) == Health()


async def test_a_busy_model_is_alive(client: TritonClient, triton: TritonStandIn) -> None:
    """A look that is late is no failure while other requests are scored.

    Without them, it is one.
    """
    triton.held.add("")  # the look's own request has no id
    stable = (await client.served(Deadline.after(10))).stable
    triton.open.clear()
    other = asyncio.create_task(_score(client))
    late = asyncio.create_task(_found(_monitor(client, timeout_s=1)))
    await _until(lambda: bool(client._record(stable).batcher._waiting))  # the look's, for the other
    triton.open.set()
    await other
    assert (await late).ready
    client.start_afresh()
    assert (await _found(_monitor(client, timeout_s=0.2))).model is not None


async def test_nothing_is_asked_of_a_model_that_works_for_others(
    client: TritonClient, triton: TritonStandIn
) -> None:
    """While Triton's own callers are answered, no pixel waits behind their executions.

    The look's own pixel does not count as one of theirs.
    """
    monitor = _monitor(client)
    assert (await _found(monitor)).ready
    client.start_afresh()  # it forgets that it has just scored
    triton.scored["3"] += 64
    triton.failure = DEAD  # for whoever asks
    assert (await _found(monitor)).ready
    assert len(triton.inferences) == 1
    assert not (await _found(monitor)).ready


async def test_an_execution_that_ends_meanwhile_is_life(client: TritonClient, triton: TritonStandIn) -> None:
    """A pixel that is late behind others' images is no failure if those were scored meanwhile."""
    triton.held.add("")
    monitor = _monitor(client, timeout_s=0.5)
    late = asyncio.create_task(_found(monitor))
    await _until(lambda: bool(triton.inferences))
    triton.scored["3"] += 8
    assert (await late).ready
    assert not (await _found(monitor)).ready


async def test_a_request_that_was_just_scored_is_as_good_as_a_look(
    client: TritonClient, triton: TritonStandIn
) -> None:
    """While requests are scored, health infers nothing itself.

    The decode workers are still looked at.
    """
    await _score(client)
    pool = Pool()
    assert (await _found(_monitor(client, pool))).ready
    assert (len(triton.inferences), pool.asked) == (1, 1)


async def test_a_request_that_fails_is_noticed_at_once(
    client: TritonClient, triton: TritonStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good state ends with the first request that finds Triton unavailable."""
    monkeypatch.setattr(health, "_PAUSE_S", 3600.0)
    monitor = _monitor(client)
    async with monitor:
        await _until(lambda: monitor.health.ready)
        triton.failure = DEAD
        with pytest.raises(NotReady):
            await _score(client)
        await _until(lambda: not monitor.health.ready)


def test_how_often_it_looks() -> None:
    """The monitor waits a second after a look, so that the end of a failure is seen soon.

    When all is well it waits ten times as long as the look took, if that is more.
    """
    assert pause_s(Health(), took_s=0.0) == 1.0
    assert pause_s(Health(), took_s=0.5) == 5.0
    assert pause_s(Health(model="dead"), took_s=0.5) == 1.0
    assert pause_s(Health(gpu="away"), took_s=60.0) == 1.0


async def test_it_survives_its_own_defects(
    client: TritonClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is logged and published as a failure; the next look follows."""
    monkeypatch.setattr(health, "_PAUSE_S", 0.01)
    pool = Pool()
    pool.error = KeyError("a defect of ours")
    monitor = _monitor(client, pool)
    async with monitor:
        await _until(lambda: monitor.health.decode == "the health monitor failed")
        assert "a defect of ours" in caplog.text
        pool.error = None
        await _until(lambda: monitor.health.ready)


def test_what_fails_is_not_ready() -> None:
    """A single failing part is enough for "not ready", but a failing canary or shadow is not."""
    assert Health().ready
    for part in (Health(decode="x"), Health(triton="x"), Health(model="x"), Health(gpu="x")):
        assert not part.ready
    assert Health(beside={"canary": "away"}).ready
    assert issubclass(DecoderStopped, ServiceError)
