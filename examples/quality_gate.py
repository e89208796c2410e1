"""A quality gate in a pipeline: make candidates, keep the best, and try again if none is good.

    python examples/quality_gate.py [--url http://127.0.0.1:8006]

Here the candidates are pictures of this folder, so that the example needs no generator. Yours takes
the place of `generate`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imajin_aesthetic_client import AestheticClient, Candidate, RankedCandidate

FOLDER: Final = Path(__file__).parent

Generate = Callable[[str, int], bytes]
"""Makes the image file of a prompt from a seed."""


@dataclass(frozen=True)
class Accepted:
    """What the gate lets through, or the best of what it saw."""

    image: bytes
    seed: int
    result: RankedCandidate
    is_good_enough: bool
    rounds: int


def generate_until_good(
    client: AestheticClient,
    prompt: str,
    generate: Generate,
    *,
    min_score: float = 0.5,
    candidates: int = 4,
    max_rounds: int = 3,
) -> Accepted:
    """Return the first round's best image that reaches `min_score`, else the best of all rounds."""
    best: Accepted | None = None
    for number in range(max_rounds):
        seeds = range(number * candidates, (number + 1) * candidates)
        images = {seed: generate(prompt, seed) for seed in seeds}
        ranking = client.score_batch(
            prompt=prompt,
            candidates=[Candidate(image, id=str(seed)) for seed, image in images.items()],
            min_score=min_score,
        )
        result = ranking.best_candidate
        seed = int(result.id or 0)
        if best is None or result.raw_score > best.result.raw_score:
            best = Accepted(images[seed], seed, result, bool(result.passed), number + 1)
        print(f"round {number + 1}: best of {candidates} is seed {seed} with {result.raw_score:+.3f}")
        if best.is_good_enough:
            break
    assert best is not None
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    """Pass every example prompt through the gate."""
    parser = argparse.ArgumentParser(description="A quality gate in a pipeline.")
    parser.add_argument("--url", default=os.environ.get("AESTHETIC_URL", "http://127.0.0.1:8006"))
    options = parser.parse_args(arguments)
    examples = json.loads((FOLDER / "examples.json").read_text())
    with AestheticClient(options.url, api_key=os.environ.get("AESTHETIC_API_KEY")) as client:
        for number, example in enumerate(examples):
            print(example["prompt"])
            accepted = generate_until_good(client, example["prompt"], pictures_of(example, number))
            verdict = "accepted" if accepted.is_good_enough else "the best there was"
            print(f"{verdict}: seed {accepted.seed}, round {accepted.rounds}\n")


def pictures_of(example: dict[str, object], seed: int) -> Generate:
    """Stand in for a generator: each seed gives one of the example's pictures, in a mixed order."""
    candidates = example["candidates"]
    assert isinstance(candidates, list)
    names = [str(candidate["file"]) for candidate in candidates]
    random.Random(seed).shuffle(names)
    return lambda _prompt, index: (FOLDER / names[index % len(names)]).read_bytes()


if __name__ == "__main__":
    main()
