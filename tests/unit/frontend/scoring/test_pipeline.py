"""When and where the parts of a request's work happen."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from frontend.deadline import Deadline
from frontend.images.sources import Source
from frontend.metrics import Metrics
from frontend.scoring import pipeline
from frontend.scoring.admission import Admission
from frontend.scoring.cache import ScoreCache
from frontend.scoring.errors import Overloaded, PromptInvalid
from frontend.scoring.pipeline import Pipeline
from frontend.scoring.scorer import Scorer
from frontend.scoring.shadow import Shadow
from frontend.triton.client import TritonClient
from reward.preprocess import prepare
from reward.tokenizer import Tokens, tokenise
from tests.pictures import photograph
from tests.unit.frontend.triton.stand_in import publish_manifest, standing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MARKS = "\u0301\u0316" * 5000


class Loader:
    """A loader with the same picture for every source; a source with a URL never arrives."""

    def __init__(self) -> None:
        self.asked: list[Source] = []

    @asynccontextmanager
    async def fetched(self, sources: list[Source], deadline: Deadline) -> AsyncIterator[list[bytes]]:
        del deadline
        self.asked += sources
        if any(source.url for source in sources):
            await asyncio.Event().wait()
        yield [b"" for _ in sources]

    async def decoded(self, images: list[bytes], deadline: Deadline) -> list[Any]:
        del deadline
        return [prepare(photograph("coffee")) for _ in images]


@asynccontextmanager
async def _pipeline(tmp_path: Path) -> AsyncIterator[Pipeline]:
    metrics = Metrics()
    async with (
        standing_in() as triton,
        TritonClient(f"127.0.0.1:{triton.port}", publish_manifest(tmp_path)) as client,
        Shadow(client, metrics) as shadow,
    ):
        yield Pipeline(
            Admission(max_concurrency=1, max_queue=0),
            Loader(),  # type: ignore[arg-type]
            client,
            Scorer(client, ScoreCache(2**20), metrics),
            shadow,
            metrics,
        )


async def _score(pipeline: Pipeline, prompt: str) -> Any:
    return await pipeline.score(prompt, [Source(data=b"")], deadline=Deadline.after(10), request_id="x")


async def test_long_prompts_are_tokenised_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long prompt is tokenised off the event loop, with the same tokens.

    A short one is tokenised at once, because a thread would cost more.
    """
    threads: list[threading.Thread] = []

    def watched(prompts: list[str]) -> Tokens:
        threads.append(threading.current_thread())
        return tokenise(prompts)

    monkeypatch.setattr(pipeline, "tokenise", watched)
    async with _pipeline(tmp_path) as scoring:
        await _score(scoring, "a short prompt")
        result = await _score(scoring, MARKS)
    assert [thread is threading.main_thread() for thread in threads] == [True, False]
    assert result.prompt_tokens == tokenise([MARKS]).lengths[0]


async def test_nothing_is_tokenised_before_admission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is refused by a full queue has cost no tokenising."""
    monkeypatch.setattr(pipeline, "tokenise", None)
    async with _pipeline(tmp_path) as refusing, refusing._admission.admit(1, Deadline.after(10)):
        for prompt in ("short", MARKS):
            with pytest.raises(Overloaded):
                await _score(refusing, prompt)


async def test_slow_hosts_take_no_place_of_those_who_have_their_bytes(tmp_path: Path) -> None:
    """However many images are waited for, a request that brings its own is scored."""
    async with _pipeline(tmp_path) as scoring:
        slow = [
            asyncio.create_task(
                scoring.score(
                    "x", [Source(url="https://slow.test")], deadline=Deadline.after(60), request_id=""
                )
            )
            for _ in range(50)
        ]
        await asyncio.sleep(0)
        assert (await _score(scoring, "a cat")).images
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_nothing_is_fetched_for_whom_there_is_no_room(tmp_path: Path) -> None:
    """If the queue is full, a request is refused before its images are fetched."""
    async with _pipeline(tmp_path) as refusing, refusing._admission.admit(1, Deadline.after(10)):
        with pytest.raises(Overloaded):
            await _score(refusing, "a cat")
        assert refusing._loader.asked == []  # type: ignore[attr-defined]


async def test_a_prompt_that_is_no_text(tmp_path: Path) -> None:
    """A lone surrogate is the caller's fault, in a short prompt and in a long one."""
    async with _pipeline(tmp_path) as pipeline:
        for prompt in ("\ud800", "\ud800" + "x" * 1000):
            with pytest.raises(PromptInvalid, match="prompt: "):
                await _score(pipeline, prompt)


async def test_prompts_that_read_alike_share_a_score(tmp_path: Path) -> None:
    """The second of two prompts with the same tokens is answered from the cache."""
    async with _pipeline(tmp_path) as pipeline:
        cached = [
            (await _score(pipeline, prompt)).images[0].cached for prompt in ("A cat", "a  CÄT", "a dog")
        ]
    assert cached == [False, True, False]
