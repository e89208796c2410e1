"""What the service answers, as frozen dataclasses; the field names are those of its JSON."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ImageInfo:
    """What was scored."""

    width: int
    height: int
    format: str
    sha256: str


@dataclass(frozen=True)
class ModelInfo:
    """What scored it; scores are comparable where all four are equal.

    Where two versions answered one batch, this is the stable one: each result names its own.
    """

    name: str
    version: str
    weights_sha256: str
    preprocessing: str


@dataclass(frozen=True)
class Score:
    """The score of one image."""

    raw_score: float
    """The model's reward, about -2 to +2."""
    normalized_score: float
    """Sigmoid of `raw_score`, 0 to 1."""
    percentile: float
    """100 * Phi(raw_score), Phi the standard normal distribution."""
    passed: bool | None
    """Whether the score reaches the limit that was sent; None without one."""
    image: ImageInfo
    model_version: str
    """The version that gave this score."""
    cached: bool
    prompt_tokens: int
    prompt_truncated: bool
    model: ModelInfo
    processing_time_ms: float


@dataclass(frozen=True)
class RankedCandidate:
    """One candidate's place."""

    rank: int
    """1 is best; equal scores share a rank."""
    index: int
    """Place in the request, from 0."""
    id: str | None
    raw_score: float
    normalized_score: float
    percentile: float
    passed: bool | None
    image: ImageInfo
    model_version: str
    cached: bool


@dataclass(frozen=True)
class ErrorInfo:
    """Why a candidate has no score."""

    code: str
    detail: str
    retryable: bool = False


@dataclass(frozen=True)
class FailedCandidate:
    """A candidate without a score."""

    index: int
    id: str | None
    error: ErrorInfo


@dataclass(frozen=True)
class Ranking:
    """The candidates of one prompt; `results` is sorted, best first."""

    best_candidate: RankedCandidate
    results: tuple[RankedCandidate, ...]
    failed: tuple[FailedCandidate, ...]
    prompt_tokens: int
    prompt_truncated: bool
    model: ModelInfo
    processing_time_ms: float


@dataclass(frozen=True)
class Limits:
    """What a request may ask for."""

    max_candidates: int
    max_image_bytes: int
    max_pixels: int
    max_body_bytes: int
    max_prompt_characters: int
    max_prompt_tokens: int
    request_timeout_s: float
    max_request_timeout_s: float
    formats: tuple[str, ...]
    fetch: str
    """Which image URLs the service fetches: `off`, `allowlist` or `public`."""


@dataclass(frozen=True)
class Scale:
    """How to read a score, in words."""

    raw_score: str
    normalized_score: str
    percentile: str


@dataclass(frozen=True)
class Gpu:
    """Where the model stands on a GPU that is shared."""

    state: str
    gpu: str
    lease_id: str | None
    fence: int | None
    keeper: str | None
    priority: int
    vram_mb: int | None
    expires_in_s: float | None
    unprotected: bool
    ledger: str


@dataclass(frozen=True)
class VersionInfo:
    """One of the versions that are served."""

    version: str
    role: str
    """`stable`, `canary` (answers its share) or `shadow` (is only compared)."""
    share: float
    loaded: bool
    name: str
    weights_sha256: str
    precision: str
    runtime: str
    published_at: str
    gates: dict[str, Any] | None
    """Summary of what it had to pass before it was published."""


@dataclass(frozen=True)
class Info:
    """What is served, and how."""

    service: str
    service_version: str
    model: ModelInfo
    versions: tuple[VersionInfo, ...]
    """All that are served, stable first."""
    precision: str
    runtime: str
    device: str | None
    """`cpu` or `gpu`; None while the model is not loaded."""
    published_at: str
    triton_version: str
    gpu_coordination: str
    gpu: Gpu | None
    limits: Limits
    scale: Scale


@dataclass(frozen=True)
class Part:
    """The state of one part of the service."""

    status: str
    """`ok` or `failing`."""
    detail: str


@dataclass(frozen=True)
class Health:
    """The state of the service; an unhealthy one answers, too."""

    status: str
    """`ready` or `unavailable`."""
    parts: dict[str, Part]

    @property
    def is_ready(self) -> bool:
        """Whether a request would be scored."""
        return self.status == "ready"


def read(kind: type[Answer], data: object) -> Answer:
    """Build a dataclass from JSON; what a newer service adds is left out.

    Raises:
        TypeError, ValueError, KeyError: the JSON is none of `kind`'s.
    """
    if not isinstance(data, dict):
        raise TypeError(f"{kind.__name__}: an object was expected")
    fields = dataclasses.fields(kind)  # type: ignore[arg-type] # every kind is a dataclass
    hints = _hints(typing.cast("Hashable", kind))
    return kind(
        **{
            field.name: _value(hints[field.name], data[field.name])
            for field in fields
            if field.name in data or field.default is dataclasses.MISSING
        }
    )


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(hint: Any, data: Any) -> Any:  # noqa: ANN401 - any type of a field, and JSON
    if dataclasses.is_dataclass(hint):
        return read(typing.cast("type", hint), data)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # X | None
        return None if data is None else _value(arguments[0], data)
    if origin is tuple:  # tuple[X, ...]
        return tuple(_value(arguments[0], item) for item in data)
    if origin is dict:
        return {key: _value(arguments[1], item) for key, item in data.items()}
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if hint is not Any and not isinstance(data, hint):
        raise TypeError(f"{hint.__name__} was expected, not {type(data).__name__}")
    return data
