"""The Python clients against the running service, which has the demonstration model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx
import numpy as np
import pytest
from PIL import Image

from imajin_aesthetic_client import (
    AestheticClient,
    AsyncAestheticClient,
    Candidate,
    ImageUndecodable,
    ImageUrlForbidden,
    InvalidRequest,
    Unauthorized,
    imagereward,
)
from imajin_aesthetic_client.triton import RowsFailed, TritonScorer
from tests.clients.conftest import API_KEY
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.stack import RunningStack

EXAMPLE = json.loads((CHECKOUT / "examples/examples.json").read_text())[0]
PROMPT: str = EXAMPLE["prompt"]
PICTURES = [CHECKOUT / "examples" / candidate["file"] for candidate in EXAMPLE["candidates"]]
FITTING = CHECKOUT / "examples" / EXAMPLE["fitting"]


@pytest.fixture
def client(service: RunningStack) -> Iterator[AestheticClient]:
    """A client of the running service."""
    with AestheticClient(service.url, api_key=API_KEY) as client:
        yield client


def test_every_form_of_an_image_has_one_score(client: AestheticClient) -> None:
    """Path, text of a path, bytes and Pillow's image give the score of the same picture."""
    picture = Image.open(FITTING)
    scores = [
        client.score(image=image, prompt=PROMPT)
        for image in (FITTING, str(FITTING), FITTING.read_bytes(), picture)
    ]
    assert len({score.raw_score for score in scores}) == 1
    assert scores[0].raw_score > 1
    assert scores[0].image.format == "JPEG"
    assert scores[3].image.format == "PNG"


def test_a_ranking_has_the_fitting_picture_first(client: AestheticClient) -> None:
    """Ten candidates, named by their files; a broken one among them stands in `failed`."""
    candidates = [Candidate(path, id=path.name) for path in PICTURES[:9]]
    ranking = client.score_batch(prompt=PROMPT, candidates=[*candidates, b"no image"], min_score=0.5)
    assert ranking.best_candidate.id == FITTING.name
    assert [result.rank for result in ranking.results] == list(range(1, 10))
    assert [result.passed for result in ranking.results] == [True] + [False] * 8
    assert [(failed.index, failed.error.code) for failed in ranking.failed] == [(9, "image_undecodable")]


def test_info_and_health(client: AestheticClient) -> None:
    """What is served, and that it is ready."""
    info = client.info()
    assert "demonstration" in info.model.name
    assert info.limits.max_candidates == 10
    assert client.health().is_ready


def test_errors_have_the_class_of_their_code(client: AestheticClient, service: RunningStack) -> None:
    """Each with the id that the service's log has."""
    with pytest.raises(ImageUndecodable) as undecodable:
        client.score(image=b"no image", prompt=PROMPT)
    assert undecodable.value.request_id
    with pytest.raises(ImageUrlForbidden):
        client.score(image="http://169.254.169.254/", prompt=PROMPT)
    with pytest.raises(InvalidRequest):
        client.score_batch(prompt=PROMPT, candidates=[])
    with AestheticClient(service.url, api_key="wrong") as stranger, pytest.raises(Unauthorized):
        stranger.info()


async def test_the_async_client_asks_the_same_service(service: RunningStack) -> None:
    """One score, one ranking, one error."""
    async with AsyncAestheticClient(service.url, api_key=API_KEY) as client:
        score = await client.score(image=FITTING, prompt=PROMPT)
        ranking = await client.score_batch(prompt=PROMPT, candidates=[*PICTURES[:4], FITTING])
        assert ranking.best_candidate.raw_score == pytest.approx(score.raw_score, abs=1e-5)
        assert (await client.info()).device == "cpu"
        assert (await client.health()).is_ready
        with pytest.raises(ImageUndecodable):
            await client.score(image=b"no image", prompt=PROMPT)


def test_upstreams_interface(service: RunningStack) -> None:
    """More pictures than one request may have get ranks and rewards in their own order."""
    pictures = [str(path) for path in PICTURES] + [str(FITTING)]
    with pytest.raises(RuntimeError, match=r"ImageReward-v1\.0 not found; available models = \['demonstr"):
        imagereward.load("ImageReward-v1.0", base_url=service.url, api_key=API_KEY)
    name = "demonstration model (not ImageReward)"
    model = imagereward.load(name, device="cuda", base_url=service.url, api_key=API_KEY)
    ranks, rewards = model.inference_rank(PROMPT, pictures)
    assert isinstance(ranks, list)
    assert isinstance(rewards, list)
    assert sorted(ranks) == list(range(1, 12))
    assert ranks[PICTURES.index(FITTING)] == 1
    assert ranks[10] == 2  # the same picture once more: equal rewards keep their order
    assert model.score(PROMPT, pictures[0]) == pytest.approx(rewards[0], abs=1e-5)
    with pytest.raises(ImageUndecodable, match="image 1"):
        model.score(PROMPT, [str(FITTING), str(CHECKOUT / "LICENSE")])
    model.close()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_many_images_through_triton(
    service: RunningStack, client: AestheticClient, protocol: Literal["grpc", "http"]
) -> None:
    """41 rows in requests of at most 6 rows: REST's scores, and a bad row fails alone."""
    url = f"127.0.0.1:{service.grpc_port if protocol == 'grpc' else service.triton_port}"
    images = [*PICTURES * 4, b"no image"]
    images[7] = Path("missing.png")
    with TritonScorer(url, protocol=protocol, max_rows=6) as scorer:
        scores = scorer.score_each(images, PROMPT)
        with pytest.raises(RowsFailed, match="2 of 41 rows failed; row 7") as failed:
            scorer.score(images, [PROMPT] * 41)
        ten = scorer.score(PICTURES, PROMPT)
    assert sorted(scores.errors) == [7, 40]
    assert isinstance(scores.errors[40], InvalidRequest)
    assert scores.errors[40].detail.startswith(("not an image", "the image is empty"))  # from ERROR
    assert failed.value.scores.errors.keys() == scores.errors.keys()
    assert ten.shape == (10,)
    ranking = client.score_batch(prompt=PROMPT, candidates=PICTURES)
    expected = [result.raw_score for result in sorted(ranking.results, key=lambda result: result.index)]
    assert ten.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.rewards[10:20].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_images_decoded_here_have_the_same_rewards(
    service: RunningStack, protocol: Literal["grpc", "http"]
) -> None:
    """Pixels instead of files: to 1e-5 the same, bad rows fail alone, images in the same words."""
    url = f"127.0.0.1:{service.grpc_port if protocol == 'grpc' else service.triton_port}"
    images = [*PICTURES, b"no image", FITTING]
    prompts = [PROMPT] * 11 + ["a lone \ud800"]
    with TritonScorer(url, protocol=protocol, max_rows=4) as scorer:
        there = scorer.score_each(images, prompts)
    with TritonScorer(url, protocol=protocol, max_rows=4, decode_processes=2) as scorer:
        here = scorer.score_each(images, prompts)
    np.testing.assert_allclose(here.rewards, there.rewards, atol=1e-5)
    assert sorted(here.errors) == sorted(there.errors) == [10, 11]
    assert here.errors[10].detail in there.errors[10].detail


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_rows_per_request_are_what_the_server_takes(
    service: RunningStack, protocol: Literal["grpc", "http"]
) -> None:
    """More rows than one request may have are cut without being told how."""
    url = f"127.0.0.1:{service.grpc_port if protocol == 'grpc' else service.triton_port}"
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 0, 0)).save(picture, "PNG")
    with TritonScorer(url, protocol=protocol, max_in_flight=1, max_rows=1000) as scorer:
        rewards = scorer.score([picture.getvalue()] * 70, "a red square")
        assert scorer.score([], "a red square").shape == (0,)
    assert rewards.tolist() == pytest.approx([rewards[0]] * 70, abs=1e-5)


def test_a_service_that_is_not_there() -> None:
    """The last connection's error, after as many attempts as allowed."""
    from imajin_aesthetic_client import ConnectionFailed, Retries
    from tests.ports import free_ports

    port = free_ports(1)[0]
    retries = Retries(max_attempts=2, first_wait_s=0.01)
    with (
        AestheticClient(f"http://127.0.0.1:{port}", retries=retries) as client,
        pytest.raises(ConnectionFailed) as failed,
    ):
        client.health()
    assert isinstance(failed.value.__cause__, httpx.ConnectError)
    with (
        TritonScorer(f"127.0.0.1:{port}", protocol="http", retries=retries) as scorer,
        pytest.raises(ConnectionFailed),
    ):
        scorer.score([FITTING], PROMPT)
