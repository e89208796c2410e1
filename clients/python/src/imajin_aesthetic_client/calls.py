"""The four calls, as the service wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imajin_aesthetic_client.answers import Health, Info, Ranking, Score
from imajin_aesthetic_client.exchange import Call
from imajin_aesthetic_client.images import ImageLike, source

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Candidate:
    """An image to be ranked, with a name of yours that comes back with its score."""

    image: ImageLike
    id: str | None = None


@dataclass(frozen=True)
class Gate:
    """What else a scoring request may say; what is None is not sent."""

    min_score: float | None = None
    min_normalized_score: float | None = None
    model_version: str | int | None = None

    def fields(self) -> dict[str, Any]:
        """Return what is sent."""
        return {name: value for name, value in vars(self).items() if value is not None}


def score(image: ImageLike, prompt: str, gate: Gate) -> Call[Score]:
    """Ask for one image's score; reads the file.

    Raises:
        OSError: it cannot be read.
    """
    return Call("POST", "/score", Score, {"prompt": prompt, **source(image), **gate.fields()})


def score_batch(prompt: str, candidates: Iterable[ImageLike | Candidate], gate: Gate) -> Call[Ranking]:
    """Ask for a ranking; reads the files.

    Raises:
        OSError: one of them cannot be read.
    """
    items = [item if isinstance(item, Candidate) else Candidate(item) for item in candidates]
    body = {
        "prompt": prompt,
        "candidates": [source(item.image) | ({} if item.id is None else {"id": item.id}) for item in items],
        **gate.fields(),
    }
    return Call("POST", "/score-batch", Ranking, body)


def info() -> Call[Info]:
    """Ask what is served."""
    return Call("GET", "/info", Info)


def health() -> Call[Health]:
    """Ask how the service is; an unhealthy one answers with 503 and says why."""
    return Call("GET", "/health", Health, statuses=frozenset({200, 503}))
