"""Bodies of requests and answers; the field names are the interface and never change."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    Strict,
    model_validator,
)

from reward.contract import MAX_PROMPT_CHARACTERS, MAX_TOKENS
from reward.preprocess import FORMATS

Prompt = Annotated[
    str,
    Field(
        max_length=MAX_PROMPT_CHARACTERS,
        description="What the image was meant to show. 35 tokens are read, as upstream does.",
        examples=["a photo of a coffee cup on a saucer"],
    ),
]
MAX_CANDIDATES: Final = 64
"""Of one batch, whatever an operator sets."""

_MAX_URL_CHARACTERS: Final = 8192


def is_data_uri(url: str) -> bool:
    """Tell whether a URL holds the image itself."""
    return url[:5].lower() == "data:"


def _is_short(url: str | None) -> str | None:
    if url is not None and len(url) > _MAX_URL_CHARACTERS and not is_data_uri(url):
        raise ValueError(f"a URL has at most {_MAX_URL_CHARACTERS} characters")
    return url


ImageUrl = Annotated[
    str | None,
    Field(
        min_length=1,
        description=f"http or https address of the image, {_MAX_URL_CHARACTERS} characters at most; "
        "or a data: URI with base64, which is as large as image_base64 may be.",
        examples=["https://example.com/image.png"],
    ),
    AfterValidator(_is_short),
]
ImageBase64 = Annotated[
    str | None, Field(min_length=1, description="The image file in base64, or as a data: URI.")
]
MinScore = Annotated[
    FiniteFloat | None, Field(description="Quality gate: `passed` says whether raw_score reaches it.")
]

MinNormalizedScore = Annotated[
    FiniteFloat | None, Field(ge=0, le=1, description="As `min_score`, for normalized_score.")
]


ModelVersion = Annotated[
    Annotated[int, Strict()] | Annotated[str, Field(max_length=20)] | None,
    Field(
        description="A version that is served, see `/info`: it alone answers. By default the canary, "
        "where there is one, answers its share of the questions and the stable version the others.",
        examples=["3"],
    ),
]


_MAX_FIELDS: Final = 16


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _is_small(cls, content: object) -> object:
        if isinstance(content, dict) and len(content) > _MAX_FIELDS:  # each would be an error
            raise ValueError(f"there are more fields than the {len(cls.model_fields)} known")
        return content


class Question(_Body):
    """What is asked of one image or of many."""

    prompt: Prompt
    min_score: MinScore = None
    min_normalized_score: MinNormalizedScore = None
    model_version: ModelVersion = None


class ImageSource(_Body):
    """Where an image comes from."""

    image_url: ImageUrl = None
    image_base64: ImageBase64 = None

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        if (self.image_url is None) == (self.image_base64 is None):
            raise ValueError("exactly one of image_url and image_base64 is needed")
        return self


class ScoreRequest(ImageSource, Question):
    """One image and its prompt."""


class ScoreUpload(Question):
    """One image file and its prompt, as a form."""

    image: Annotated[bytes, Strict()]


class Candidate(ImageSource):
    """One of the images to be ranked."""

    id: Annotated[str | None, Field(max_length=200, description="Yours; it comes back with the score.")] = (
        None
    )


class BatchRequest(Question):
    """One prompt and its candidates; ten at most by default (see `/info`)."""

    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=MAX_CANDIDATES)]


class BatchUpload(Question):
    """One prompt and its candidates, as a form."""

    images: Annotated[
        list[Annotated[bytes, Strict()]],
        Field(
            min_length=1,
            max_length=MAX_CANDIDATES,
            description="A file for each candidate, in a field of this name or of the name `image`.",
        ),
    ]


class ImageInfo(BaseModel):
    """What was scored."""

    model_config = ConfigDict(from_attributes=True)

    width: int
    height: int
    format: str
    sha256: str


class ModelInfo(BaseModel):
    """What scored it; scores are comparable where all four are equal.

    Where two versions answered one batch, this is the stable one: each result names its own.
    """

    name: str
    version: str
    weights_sha256: str
    preprocessing: str


class Scored(BaseModel):
    """The score of one image."""

    raw_score: Annotated[float, Field(description="The model's reward, about -2 to +2.")]
    normalized_score: Annotated[float, Field(description="Sigmoid of raw_score, 0 to 1.")]
    percentile: Annotated[float, Field(description="100 * Phi(raw_score), the normal distribution's.")]
    passed: Annotated[
        bool | None,
        Field(description="Whether the score reaches every limit that was sent; null without one."),
    ]
    image: ImageInfo
    model_version: Annotated[str, Field(description="The version that gave this score.")]
    cached: bool


class ScoreResponse(Scored):
    """Answer of `/score`."""

    prompt_tokens: int
    prompt_truncated: bool
    model: ModelInfo
    processing_time_ms: float


class RankedCandidate(Scored):
    """One candidate's place."""

    rank: Annotated[int, Field(description="1 is best; equal scores share a rank.")]
    index: Annotated[int, Field(description="Place in the request, from 0.")]
    id: str | None


class ErrorInfo(BaseModel):
    """Why a candidate has no score."""

    code: str
    detail: str
    retryable: Annotated[bool, Field(description="Whether the same image may be scored later.")]


class FailedCandidate(BaseModel):
    """A candidate without a score."""

    index: int
    id: str | None
    error: ErrorInfo


class BatchResponse(BaseModel):
    """Answer of `/score-batch`; `results` is sorted, best first."""

    best_candidate: RankedCandidate
    results: list[RankedCandidate]
    failed: list[FailedCandidate]
    prompt_tokens: int
    prompt_truncated: bool
    model: ModelInfo
    processing_time_ms: float


class Problem(BaseModel):
    """An error, as application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    retryable: Annotated[bool, Field(description="Whether the same request may succeed later.")]
    request_id: str
    failed: list[FailedCandidate] | None = None


class Part(BaseModel):
    """The state of one part of the service."""

    status: Literal["ok", "failing"]
    detail: str


class HealthResponse(BaseModel):
    """Answer of `/health`."""

    status: Literal["ready", "unavailable"]
    parts: dict[str, Part]


class LiveResponse(BaseModel):
    """Answer of `/health/live`."""

    status: Literal["live"] = "live"


class Limits(BaseModel):
    """What a request may ask for; what an operator may choose of it is read from the settings."""

    model_config = ConfigDict(
        frozen=True, from_attributes=True, json_schema_serialization_defaults_required=True
    )

    max_candidates: int
    max_image_bytes: int
    max_pixels: int
    max_body_bytes: int
    max_prompt_characters: int = MAX_PROMPT_CHARACTERS
    max_prompt_tokens: int = MAX_TOKENS
    request_timeout_s: float
    max_request_timeout_s: float
    formats: list[str] = list(FORMATS)
    fetch: str


class Scale(BaseModel):
    """How to read a score."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    raw_score: str = "reward, about -2 to +2; mean 0 and standard deviation 1 on the model's own test set"
    normalized_score: str = "sigmoid(raw_score), 0 to 1"
    percentile: str = "100 * Phi(raw_score), Phi the standard normal distribution"


class Gpu(BaseModel):
    """Where the model stands on a GPU that is shared."""

    state: Annotated[str, Field(description="unloaded, reserving, loading, ready or unloading")]
    gpu: Annotated[str, Field(description="The ledger's name for it.")]
    lease_id: str | None
    fence: Annotated[int | None, Field(description="The fencing token, while a lease is held.")]
    keeper: Annotated[
        str | None, Field(description="The frontend that loads and unloads the model for all of its Triton.")
    ]
    priority: int
    vram_mb: Annotated[int | None, Field(description="Claimed by this frontend, in MiB.")]
    expires_in_s: Annotated[
        float | None, Field(description="How long the lease lasts if no heartbeat succeeds.")
    ]
    unprotected: Annotated[bool, Field(description="Going on without a lease, by fail_open.")]
    ledger: Annotated[str, Field(description="ok, or why the ledger was not reached the last time")]


class VersionInfo(BaseModel):
    """One of the versions that are served."""

    version: str
    role: Annotated[
        str, Field(description="stable, canary (answers its share), or shadow (is only compared)")
    ]
    share: Annotated[float, Field(description="Of the questions that it is asked, 0 to 1.")]
    loaded: Annotated[bool, Field(description="Whether Triton has it ready.")]
    name: str
    weights_sha256: str
    precision: str
    runtime: str
    published_at: str
    gates: Annotated[
        dict[str, Any] | None,
        Field(description="Summary of what it had to pass before it was published; null: nothing."),
    ]


class InfoResponse(BaseModel):
    """Answer of `/info`; what is said of the model at the top is the stable version's."""

    service: str
    service_version: str
    model: ModelInfo
    versions: Annotated[list[VersionInfo], Field(description="All that are served, stable first.")]
    precision: str
    runtime: str
    device: Annotated[str | None, Field(description="cpu or gpu; null while the model is not loaded.")]
    published_at: str
    triton_version: str
    gpu_coordination: Annotated[
        str, Field(description="none, model-boss, or the ledger that takes its place")
    ]
    gpu: Annotated[Gpu | None, Field(description="null without coordination")]
    limits: Limits
    scale: Scale = Scale()
