"""REST and Triton's own API give the same scores, and Triton batches what they send."""

from __future__ import annotations

import base64
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reward import runtimes
from reward.contract import NETWORK
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.pictures import PHOTOGRAPHS, photograph

if TYPE_CHECKING:
    import httpx

    from tests.integration.stack import RunningStack

PROMPT = "a photo of an astronaut in an orange suit, 日本 🚀"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _score(stack: RunningStack, data: bytes, prompt: str = PROMPT) -> float:
    with stack.client() as client:
        return _ask(client, data, prompt)


def _ask(client: httpx.Client, data: bytes, prompt: str = PROMPT) -> float:
    answer = client.post("/score", json={"prompt": prompt, "image_base64": _base64(data)})
    assert answer.status_code == 200, answer.text
    return float(answer.json()["raw_score"])


@pytest.mark.parametrize("name", PHOTOGRAPHS[:5])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_rest_bytes_and_pixels_agree(stack: RunningStack, name: str, image_format: str) -> None:
    """Four ways to score an image agree to 1e-6.

    They are REST, the ensemble on bytes, the network on pixels, and the library alone.
    """
    data = photograph(name, image_format)
    tokens = tokenise([PROMPT])
    tensors = (prepare(data).pixels[None], tokens.input_ids, tokens.attention_mask)
    scores = [
        _score(stack, data),
        float(stack.score_bytes([data], [PROMPT])[0]),
        float(stack.score_pixels(tensors)[0]),
        float(runtimes.load(stack.repository / NETWORK.name / "1").score(*tensors)[0, 0]),
    ]
    assert max(scores) - min(scores) <= 1e-6


def test_images_and_prompts_matter(stack: RunningStack) -> None:
    """The small network tells photographs and prompts apart.

    Otherwise equal scores in other tests would mean nothing.
    """
    by_image = [_score(stack, photograph(name)) for name in PHOTOGRAPHS]
    by_prompt = [_score(stack, photograph("coffee"), prompt) for prompt in ("a cat", "", "coffee", "x y z")]
    assert max(by_image) - min(by_image) > 0.1
    assert max(by_prompt) - min(by_prompt) > 0.1


def test_a_batch_is_one_execution(stack: RunningStack) -> None:
    """Ten candidates in one `/score-batch` are one request and one execution of ten inferences."""
    _quiet_health(stack)
    before = stack.statistics()
    with stack.client() as client:
        answer = client.post("/score-batch", json=_batch(list(PHOTOGRAPHS)))
    after = stack.statistics()
    assert answer.status_code == 200, answer.text
    assert {key: after[key] - before[key] for key in after} == {
        "requests": 1,
        "executions": 1,
        "inferences": 10,
    }


def test_concurrent_requests_share_executions(stack: RunningStack) -> None:
    """Ten `/score` calls that come while the network works share fewer than ten executions."""
    data = [photograph(name) for name in PHOTOGRAPHS]
    for _ in range(10):  # where others use the machine, ten calls may come one after the other
        executions, scores = _ask_while_it_works(stack, data)
        np.testing.assert_allclose(scores, [_score(stack, each) for each in data], rtol=0, atol=1e-5)
        if executions < 10:
            break
    assert executions < 10


def _ask_while_it_works(stack: RunningStack, data: list[bytes]) -> tuple[int, list[float]]:
    """Ask for each image, all at once; return how many executions that took, and the scores."""
    tokens = tokenise([PROMPT] * 64)
    full = (np.zeros((64, 3, 224, 224), np.uint8), tokens.input_ids, tokens.attention_mask)
    _quiet_health(stack)
    before = stack.statistics()
    answers: list[Future[float]] = []

    def keep_busy() -> int:
        sent = 0
        while not answers or not all(answer.done() for answer in answers):
            stack.score_pixels(full)  # of as many rows as one execution takes: nothing joins it
            sent += 1
        return sent

    # One client for all: to make ten takes so long that they would ask one after the other.
    with stack.client() as client, ThreadPoolExecutor(13) as threads:
        # Three, so that the next is always there when one has ended.
        bulk = [threads.submit(keep_busy) for _ in range(3)]
        answers += [threads.submit(_ask, client, each) for each in data]
    after = stack.statistics()
    sent = sum(thread.result() for thread in bulk)
    assert after["inferences"] - before["inferences"] == len(data) + 64 * sent
    return after["executions"] - before["executions"] - sent, [answer.result() for answer in answers]


def test_a_score_does_not_depend_on_its_batch_mates(stack: RunningStack) -> None:
    """A score moves by 1e-5 at most when nine others, or a longer prompt, are in the batch."""
    with stack.client() as client:
        results = client.post("/score-batch", json=_batch(list(PHOTOGRAPHS))).json()["results"]
    for result in results:
        alone = _score(stack, photograph(PHOTOGRAPHS[result["index"]]))
        assert abs(alone - result["raw_score"]) <= 1e-5
    data = [photograph("coffee"), photograph("chelsea")]
    together = stack.score_bytes(data, ["a cup", "many words " * 30])
    assert abs(float(together[0]) - float(stack.score_bytes(data[:1], ["a cup"])[0])) <= 1e-5


def test_a_bad_request_spares_those_it_is_batched_with(stack: RunningStack) -> None:
    """A caller whose token ids are out of range is refused.

    Another caller in the same execution is answered.
    """
    from tritonclient.utils import InferenceServerException

    tokens = tokenise([PROMPT])
    pixels = prepare(photograph("coffee")).pixels[None]
    good = (pixels, tokens.input_ids, tokens.attention_mask)
    bad = (pixels, tokens.input_ids + 40_000, tokens.attention_mask)
    empty = (pixels, tokens.input_ids, tokens.attention_mask * 0)

    def attempt(tensors: tuple[Any, ...]) -> float | str:
        try:
            return float(stack.score_pixels(tensors)[0])
        except InferenceServerException as error:
            return f"{error.status()}: {error.message()}"

    with ThreadPoolExecutor(9) as threads:
        answers = list(threads.map(attempt, [good, bad, empty] * 3))
    expected = float(stack.score_pixels(good)[0])
    for score, refused, also_refused in zip(answers[::3], answers[1::3], answers[2::3], strict=True):
        assert isinstance(score, float)
        assert abs(score - expected) <= 1e-5
        assert str(refused).startswith("400")
        assert "INPUT_IDS must lie in" in str(refused)
        assert "ATTENTION_MASK must be 0 or 1" in str(also_refused)


def test_in_the_ensemble_a_bad_row_fails_alone(stack: RunningStack) -> None:
    """A row that cannot be scored has NaN and its reason; the others have their own scores.

    A request of that row alone is refused as 400, with the same reason.
    """
    from tritonclient.utils import InferenceServerException

    good = photograph("coffee")
    rewards, errors = stack.ask_ensemble([good, b"text", good], ["a", "b", "c"])
    alone = stack.score_bytes([good], ["a"]), stack.score_bytes([good], ["c"])
    np.testing.assert_allclose(rewards[[0, 2]], np.concatenate(alone), rtol=0, atol=1e-5)
    assert np.isnan(rewards[1])
    assert errors == ["", "not an image in one of the formats JPEG, PNG, WEBP, GIF, AVIF", ""]
    rewards, errors = stack.ask_ensemble([b"text", b""], ["a", "b"])
    assert np.isnan(rewards).all()
    assert errors[1] == "the image is empty (0 bytes)"
    with pytest.raises(InferenceServerException, match=r"IMAGE\[0\]: not an image") as caught:
        stack.score_bytes([b"text"], ["b"])
    assert caught.value.status() == "400"


def test_health_sends_no_pixel_while_triton_works_for_others(stack: RunningStack) -> None:
    """While Triton scores its own callers' batches, health adds at most the look that began before.

    The service stays ready.
    """
    tokens = tokenise([PROMPT] * 64)
    full = (np.zeros((64, 3, 224, 224), np.uint8), tokens.input_ids, tokens.attention_mask)
    before = stack.statistics()["requests"]
    sent = 0
    until_s = time.monotonic() + 4  # four looks, if nothing else keeps the machine busy
    while time.monotonic() < until_s:
        stack.score_pixels(full)
        sent += 1
    assert stack.statistics()["requests"] - before - sent <= 1
    with stack.client() as client:
        assert client.get("/health/ready").status_code == 200


def _quiet_health(stack: RunningStack) -> None:
    """Wait until health's own inferences cannot disturb a count.

    For a second after a scored request health infers nothing, but one inference may be under way.
    """
    _score(stack, photograph("coffee"))
    time.sleep(0.2)
    _score(stack, photograph("coffee"))


def _batch(names: list[str]) -> dict[str, Any]:
    candidates = [{"id": name, "image_base64": _base64(photograph(name))} for name in names]
    return {"prompt": PROMPT, "candidates": candidates}
