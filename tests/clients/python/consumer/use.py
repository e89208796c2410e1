"""What a stranger writes; mypy checks it under --strict against the installed package."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from imajin_aesthetic_client import (
    AestheticClient,
    AestheticError,
    AsyncAestheticClient,
    Candidate,
    ImageError,
    Overloaded,
    Ranking,
    Retries,
    Score,
    imagereward,
)

if TYPE_CHECKING:
    from pathlib import Path


def best(url: str, prompt: str, folder: Path) -> str | None:
    """Rank files, bytes and addresses."""
    with AestheticClient(url, api_key=None, timeout_s=5, retries=Retries(max_attempts=2)) as client:
        score: Score = client.score(image=folder / "1.png", prompt=prompt, min_score=0.5)
        ranking: Ranking = client.score_batch(
            prompt=prompt, candidates=["1.png", b"...", Candidate("https://example.com/3.png", id="third")]
        )
        numbers: list[float] = [score.raw_score, *(result.normalized_score for result in ranking.results)]
        limits = client.info().limits
        return ranking.best_candidate.id if len(numbers) <= limits.max_candidates else None


async def is_ready(url: str) -> bool:
    """Ask how the service is."""
    async with AsyncAestheticClient(url) as client:
        return (await client.health()).is_ready


def explain(error: AestheticError) -> str:
    """Tell errors by their classes."""
    if isinstance(error, ImageError):
        return f"not an image: {error.detail}"
    if isinstance(error, Overloaded):
        return f"come back in {error.retry_after_s or 0.0:.0f} s"
    return error.code


def ranks(url: str, prompt: str) -> list[int] | int:
    """Ask as upstream's package is asked."""
    return imagereward.load("ImageReward-v1.0", base_url=url).inference_rank(prompt, ["1.png", "2.png"])[0]


if __name__ == "__main__":
    print(explain(AestheticError("nothing", code="x")), asyncio.run(is_ready("http://127.0.0.1:1")))
