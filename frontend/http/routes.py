"""The endpoints: body -> pipeline -> answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from frontend.deadline import Deadline
from frontend.errors import ServiceError
from frontend.http import bodies, schemas
from frontend.http.bodies import TIMEOUT_HEADER
from frontend.http.errors import AllFailed
from frontend.http.problem import kind
from frontend.scoring import ranking
from reward.contract import MAX_PROMPT_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from frontend.gpu.keeper import Keeper
    from frontend.metrics import Metrics
    from frontend.scoring.health import HealthMonitor
    from frontend.scoring.pipeline import Pipeline, ScoredImage, ScoreResult
    from frontend.triton.client import ServedVersion, TritonClient

    _Read = Callable[[Request, schemas.Limits, Deadline], Awaitable[bodies.ScoringRequest]]


@dataclass(frozen=True)
class Services:
    """The parts that endpoints use, built at start-up."""

    limits: schemas.Limits
    pipeline: Pipeline
    client: TritonClient
    monitor: HealthMonitor
    metrics: Metrics
    keeper: Keeper | None
    log_prompts: bool = False


async def _services(request: Request) -> Services:  # else FastAPI asks a thread
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
    body, result = await _score(request, parts, bodies.read_score)
    image = result.images[0]
    if isinstance(image, ServiceError):
        raise image
    return schemas.ScoreResponse(
        **_scored(image, body.min_score),
        prompt_tokens=result.prompt_tokens,
        prompt_truncated=result.prompt_truncated,
        model=_model(result.served),
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
    body, result = await _score(request, parts, bodies.read_batch)
    results, failed = _ranked(body, result.images)
    if not results:
        raise AllFailed("no candidate could be scored", failed)
    return schemas.BatchResponse(
        best_candidate=results[0],
        results=results,
        failed=failed,
        prompt_tokens=result.prompt_tokens,
        prompt_truncated=result.prompt_truncated,
        model=_model(result.served),
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
    served = await parts.pipeline.served(Deadline.after(parts.limits.request_timeout_s))
    return schemas.InfoResponse(
        service="imajin-aesthetic",
        service_version=version("imajin-aesthetic"),
        model=_model(served),
        precision=served.manifest.precision,
        runtime=served.manifest.runtime,
        device=served.device,
        published_at=served.manifest.created_at,
        triton_version=served.triton_version,
        gpu_coordination="none" if parts.keeper is None else parts.keeper.coordination,
        gpu=_gpu(parts.keeper),
        limits=parts.limits,
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
    """Say what the last look at every part has found, a moment ago; 503 while one of them fails.

    A look scores a one-pixel image. On a shared GPU the model is neither loaded nor kept for it.
    """
    found = parts.monitor.health
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


async def _score(request: Request, parts: Services, read: _Read) -> tuple[bodies.ScoringRequest, ScoreResult]:
    deadline = bodies.read_deadline(request, parts.limits)
    body = await read(request, parts.limits, deadline)
    request.state.notes["images"] = len(body.sources)
    if parts.log_prompts:
        request.state.notes["prompt"] = body.prompt
    result = await parts.pipeline.score(
        body.prompt, body.sources, deadline=deadline, request_id=request.state.request_id
    )
    for image in result.images:
        if isinstance(image, ServiceError):
            parts.metrics.failed_images.labels(kind(image).code).inc()
    return body, result


def _ranked(
    body: bodies.ScoringRequest, images: list[ScoredImage | ServiceError]
) -> tuple[list[schemas.RankedCandidate], list[schemas.FailedCandidate]]:
    scored = [(index, image) for index, image in enumerate(images) if not isinstance(image, ServiceError)]
    results = []
    for place in ranking.rank([image.raw_score for _, image in scored]):
        index, image = scored[place.index]
        results.append(
            schemas.RankedCandidate(
                rank=place.rank,
                index=index,
                id=body.ids[index],
                **_scored(image, body.min_score),
            )
        )
    failed = [
        schemas.FailedCandidate(
            index=index,
            id=body.ids[index],
            error=schemas.ErrorInfo(code=kind(error).code, detail=error.detail),
        )
        for index, error in enumerate(images)
        if isinstance(error, ServiceError)
    ]
    return results, failed


def _scored(scored: ScoredImage, min_score: float | None) -> dict[str, Any]:
    image = scored.image
    return {
        "raw_score": scored.raw_score,
        "normalized_score": ranking.sigmoid(scored.raw_score),
        "percentile": ranking.percentile(scored.raw_score),
        "passed": None if min_score is None else scored.raw_score >= min_score,
        "image": schemas.ImageInfo(
            width=image.width, height=image.height, format=image.format, sha256=image.sha256
        ),
        "cached": scored.cached,
    }


def _model(served: ServedVersion) -> schemas.ModelInfo:
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
