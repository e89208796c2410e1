"""The endpoints: body -> pipeline -> answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from frontend.deadline import HEADER as TIMEOUT_HEADER
from frontend.deadline import Deadline
from frontend.errors import ServiceError
from frontend.http import bodies, schemas
from frontend.http.problem import AllFailed
from frontend.images.decode import FORMATS
from frontend.images.sources import Source
from frontend.scoring import ranking
from reward.contract import MAX_PROMPT_CHARACTERS, MAX_TOKENS

if TYPE_CHECKING:
    from frontend.gpu.keeper import Keeper
    from frontend.images.decode import Decoded
    from frontend.metrics import Metrics
    from frontend.scoring.health import HealthProbe
    from frontend.scoring.pipeline import Judgement, Pipeline
    from frontend.settings import Settings
    from frontend.triton.client import Scorer, Served


@dataclass(frozen=True)
class Services:
    """The parts that endpoints use, built at start-up."""

    settings: Settings
    pipeline: Pipeline
    scorer: Scorer
    health: HealthProbe
    metrics: Metrics
    keeper: Keeper | None


def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


Parts = Annotated[Services, Depends(_services)]
router = APIRouter()

_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": "An error (RFC 9457)", "content": _PROBLEM} for status in statuses}


_SCORING_PROBLEMS: Final = _problems(401, 413, 422, 429, 500, 503, 504)
_TIMEOUT_PARAMETER: Final = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "description": "Deadline of this request in milliseconds.",
}
_UPLOAD_SCHEMA: Final = {
    "type": "object",
    "required": ["prompt", "image"],
    "properties": {
        "prompt": {"type": "string", "maxLength": MAX_PROMPT_CHARACTERS},
        "image": {"type": "string", "format": "binary"},
        "min_score": {"type": "number"},
    },
}


def _body(name: str, **others: dict[str, Any]) -> dict[str, Any]:
    json_schema = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {
        "requestBody": {"required": True, "content": json_schema | others},
        "parameters": [_TIMEOUT_PARAMETER],
    }


@router.post(
    "/score",
    summary="Score one image",
    response_model=schemas.ScoreResponse,
    responses=_SCORING_PROBLEMS,
    openapi_extra=_body("ScoreRequest", **{"multipart/form-data": {"schema": _UPLOAD_SCHEMA}}),
)
async def score(request: Request, parts: Parts) -> schemas.ScoreResponse:
    """Score one image, by URL, base64 or upload, against its prompt."""
    started = time.perf_counter()
    deadline = _deadline(request, parts.settings)
    prompt, source, min_score = await bodies.read_score(request, parts.settings, deadline)
    _note(request, parts.settings, prompt, images=1)
    verdict = await parts.pipeline.judge(
        prompt, [source], deadline=deadline, request_id=request.state.request_id
    )
    judgement = verdict.images[0]
    if isinstance(judgement, ServiceError):
        raise judgement
    return schemas.ScoreResponse(
        **_scored(judgement, min_score),
        prompt_tokens=verdict.prompt_tokens,
        prompt_truncated=verdict.prompt_truncated,
        model=_model(verdict.served),
        processing_time_ms=_since_ms(started),
    )


@router.post(
    "/score-batch",
    summary="Rank up to ten candidates",
    response_model=schemas.BatchResponse,
    responses=_SCORING_PROBLEMS,
    openapi_extra=_body("BatchRequest"),
)
async def score_batch(request: Request, parts: Parts) -> schemas.BatchResponse:
    """Rank the candidates of one prompt, best first; one that fails does not fail the others."""
    started = time.perf_counter()
    deadline = _deadline(request, parts.settings)
    body = await bodies.read_batch(request, parts.settings, deadline)
    _note(request, parts.settings, body.prompt, images=len(body.candidates))
    sources = [Source(url=item.image_url, base64=item.image_base64) for item in body.candidates]
    verdict = await parts.pipeline.judge(
        body.prompt, sources, deadline=deadline, request_id=request.state.request_id
    )
    results, failed = _ranked(body, verdict.images)
    if not results:
        raise AllFailed("no candidate could be scored", failed)
    return schemas.BatchResponse(
        best_candidate=results[0],
        results=results,
        failed=failed,
        prompt_tokens=verdict.prompt_tokens,
        prompt_truncated=verdict.prompt_truncated,
        model=_model(verdict.served),
        processing_time_ms=_since_ms(started),
    )


@router.get(
    "/info",
    summary="Model, limits and scale",
    response_model=schemas.InfoResponse,
    responses=_problems(401, 429, 500, 503, 504),
)
async def info(parts: Parts) -> schemas.InfoResponse:
    """Describe what is served, what may be asked for and how to read a score."""
    settings = parts.settings
    served = await parts.pipeline.served(Deadline.after(settings.request_timeout_s))
    return schemas.InfoResponse(
        service="imajin-aesthetic",
        service_version=version("imajin-aesthetic"),
        model=_model(served),
        precision=served.manifest.precision,
        runtime=served.manifest.runtime,
        device=served.device,
        published_at=served.manifest.created_at,
        triton_version=served.triton_version,
        gpu_coordination="none" if parts.keeper is None else settings.gpu_ledger or "model-boss",
        gpu=_gpu(parts.keeper),
        limits=schemas.Limits(
            max_candidates=settings.max_candidates,
            max_image_bytes=settings.max_image_bytes,
            max_pixels=settings.max_pixels,
            max_body_bytes=settings.max_body_bytes,
            max_prompt_characters=MAX_PROMPT_CHARACTERS,
            max_prompt_tokens=MAX_TOKENS,
            request_timeout_s=settings.request_timeout_s,
            max_request_timeout_s=settings.max_request_timeout_s,
            formats=list(FORMATS),
            fetch=settings.fetch,
        ),
        scale=schemas.Scale(
            raw_score="reward, about -2 to +2; mean 0 and standard deviation 1 on the model's own test set",
            normalized_score="sigmoid(raw_score), 0 to 1",
            percentile="100 * Phi(raw_score), Phi the standard normal distribution",
        ),
    )


@router.get("/health/live", summary="The process answers", response_model=schemas.LiveResponse)
async def live() -> schemas.LiveResponse:
    """Say that the process is alive, whatever Triton does."""
    return schemas.LiveResponse()


_HEALTH_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {503: {"model": schemas.HealthResponse}}


@router.get(
    "/health",
    summary="Each part's state",
    response_model=schemas.HealthResponse,
    responses=_HEALTH_RESPONSES,
)
@router.get(
    "/health/ready",
    summary="A request would be scored",
    response_model=schemas.HealthResponse,
    responses=_HEALTH_RESPONSES,
)
async def ready(parts: Parts) -> JSONResponse:
    """Score a one-pixel image through every part; 503 while one of them fails.

    On a shared GPU the model is neither loaded nor kept for it.
    """
    found = await parts.health.check()
    troubles = {"decode": found.decode, "triton": found.triton, "model": found.model}
    details = dict.fromkeys(troubles, "ok")
    if parts.keeper is not None:
        troubles["gpu"] = found.gpu
        details["gpu"] = str(parts.keeper.status())
    content = schemas.HealthResponse(
        status="ready" if found.ready else "unavailable",
        parts={
            name: schemas.Part(status="ok" if trouble is None else "failing", detail=trouble or details[name])
            for name, trouble in troubles.items()
        },
    )
    return JSONResponse(content.model_dump(), status_code=200 if found.ready else 503)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses=_problems(401, 500),
)
async def metrics(parts: Parts) -> Response:
    """Write the metrics in Prometheus' text format."""
    return Response(parts.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _deadline(request: Request, settings: Settings) -> Deadline:
    return Deadline.of_header(
        request.headers.get(TIMEOUT_HEADER),
        default_s=settings.request_timeout_s,
        max_s=settings.max_request_timeout_s,
    )


def _note(request: Request, settings: Settings, prompt: str, *, images: int) -> None:
    request.state.notes["images"] = images
    if settings.log_prompts:
        request.state.notes["prompt"] = prompt


def _ranked(
    body: schemas.BatchRequest, images: list[Judgement | ServiceError]
) -> tuple[list[schemas.RankedCandidate], list[schemas.FailedCandidate]]:
    scored = [(index, image) for index, image in enumerate(images) if not isinstance(image, ServiceError)]
    results = []
    for place in ranking.rank([judgement.raw_score for _, judgement in scored]):
        index, judgement = scored[place.index]
        results.append(
            schemas.RankedCandidate(
                rank=place.rank,
                index=index,
                id=body.candidates[index].id,
                **_scored(judgement, body.min_score),
            )
        )
    failed = [
        schemas.FailedCandidate(
            index=index,
            id=body.candidates[index].id,
            error=schemas.ErrorInfo(code=image.code, detail=image.detail),
        )
        for index, image in enumerate(images)
        if isinstance(image, ServiceError)
    ]
    return results, failed


def _scored(judgement: Judgement, min_score: float | None) -> dict[str, Any]:
    return {
        "raw_score": judgement.raw_score,
        "normalized_score": ranking.sigmoid(judgement.raw_score),
        "percentile": ranking.percentile(judgement.raw_score),
        "passed": None if min_score is None else judgement.raw_score >= min_score,
        "image": _image(judgement.image),
        "cached": judgement.cached,
    }


def _image(image: Decoded) -> schemas.ImageInfo:
    return schemas.ImageInfo(width=image.width, height=image.height, format=image.format, sha256=image.sha256)


def _model(served: Served) -> schemas.ModelInfo:
    return schemas.ModelInfo(
        name=served.manifest.name,
        version=served.version,
        weights_sha256=served.manifest.checkpoint_sha256,
        preprocessing=served.manifest.preprocessing,
    )


def _gpu(keeper: Keeper | None) -> schemas.Gpu | None:
    if keeper is None:
        return None
    found = keeper.status()
    return schemas.Gpu(
        state=found.state,
        gpu=found.gpu,
        lease_id=found.lease_id,
        fence=found.fence,
        keeper=found.keeper,
        priority=found.priority,
        vram_mb=found.vram_mb,
        expires_in_s=found.expires_in_s,
        unprotected=found.is_unprotected,
        ledger=found.outage or "ok",
    )


def _since_ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
