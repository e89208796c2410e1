"""The endpoints: body -> pipeline -> answer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from frontend.deadline import Deadline
from frontend.errors import ServiceError
from frontend.http import bodies, schemas
from frontend.http.errors import AllFailed, InvalidRequest
from frontend.http.openapi import problems, scoring_body
from frontend.http.problem import kind
from frontend.scoring import ranking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from frontend.gpu.keeper import Keeper
    from frontend.metrics import Metrics
    from frontend.scoring.health import HealthMonitor
    from frontend.scoring.pipeline import Pipeline, ScoreResult
    from frontend.scoring.scorer import ScoredImage
    from frontend.triton.client import TritonClient
    from frontend.triton.served import ServedVersion

    _Read = Callable[[Request, Deadline, int], Awaitable[bodies.ScoringRequest]]


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

SCORING: Final = ("/score", "/score-batch")
_SCORING_PROBLEMS: Final = problems(401, 413, 422, 429, 500, 503, 504)


@router.post(
    "/score",
    summary="Score one image",
    response_model=schemas.ScoreResponse,
    responses=_SCORING_PROBLEMS,
    openapi_extra=scoring_body(schemas.ScoreRequest, schemas.ScoreUpload),
)
async def score(request: Request, parts: Parts) -> schemas.ScoreResponse:
    """Score one image, by URL, base64 or upload, against its prompt."""
    started = time.perf_counter()
    body, result = await _score(request, parts, bodies.read_score)
    image = result.images[0]
    if isinstance(image, ServiceError):
        raise image
    return schemas.ScoreResponse(
        **_scored(image, body),
        **_answer(result, started),
    )


@router.post(
    "/score-batch",
    summary="Rank up to ten candidates",
    response_model=schemas.BatchResponse,
    responses=_SCORING_PROBLEMS,
    openapi_extra=scoring_body(schemas.BatchRequest, schemas.BatchUpload),
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
        **_answer(result, started),
    )


@router.get(
    "/info",
    summary="Model, limits and scale",
    response_model=schemas.InfoResponse,
    responses=problems(401, 429, 500, 503, 504),
)
async def info(parts: Parts) -> schemas.InfoResponse:
    """Describe what is served, what may be asked for and how to read a score."""
    deadline = Deadline.after(parts.limits.request_timeout_s)
    served = await parts.client.served(deadline)
    stable = served.stable
    loaded = await asyncio.gather(*(parts.client.is_loaded(version, deadline) for version in served.versions))
    return schemas.InfoResponse(
        service="imajin-aesthetic",
        service_version=version("imajin-aesthetic"),
        model=_model(stable),
        versions=[
            _version(one, is_loaded=is_loaded, runtime=served.runtime(one))
            for one, is_loaded in zip(served.versions, loaded, strict=True)
        ],
        precision=stable.manifest.precision,
        runtime=served.runtime(stable),
        device=served.device if loaded[0] else None,
        published_at=stable.manifest.created_at,
        triton_version=served.triton_version,
        gpu_coordination="none" if parts.keeper is None else parts.keeper.coordination,
        gpu=_gpu(parts.keeper),
        limits=parts.limits,
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
    A canary or a shadow that fails is named, and does not make the service unready.
    """
    found = parts.monitor.health
    troubles: dict[str, str | None] = {
        "decode": found.decode,
        "triton": found.triton,
        "model": found.model,
        **found.beside,
    }
    if found.frontend is not None:
        troubles["frontend"] = found.frontend
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
    responses=problems(401, 500),
)
async def metrics(parts: Parts) -> Response:
    """Write the metrics in Prometheus' text format."""
    return Response(parts.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _score(request: Request, parts: Services, read: _Read) -> tuple[bodies.ScoringRequest, ScoreResult]:
    deadline = bodies.read_deadline(request, parts.limits)
    body = await read(request, deadline, parts.limits.max_image_bytes)
    count, allowed = len(body.sources), parts.limits.max_candidates
    if count > allowed:
        raise InvalidRequest(f"candidates: {count} were sent, {allowed} are allowed")
    request.state.notes["images"] = count
    if parts.log_prompts:
        request.state.notes["prompt"] = body.prompt
    result = await parts.pipeline.score(
        body.prompt,
        body.sources,
        deadline=deadline,
        request_id=request.state.request_id,
        version=body.model_version,
    )
    for image in result.images:
        if isinstance(image, ServiceError):
            parts.metrics.failed_images.labels(kind(image).code).inc()
    return body, result


def _ranked(
    body: bodies.ScoringRequest, images: list[ScoredImage | ServiceError]
) -> tuple[list[schemas.RankedCandidate], list[schemas.FailedCandidate]]:
    results, failed = [], []
    ranks = iter(ranking.ranks([one.raw_score for one in images if not isinstance(one, ServiceError)]))
    for index, (own_id, image) in enumerate(zip(body.ids, images, strict=True)):
        if isinstance(image, ServiceError):
            row = kind(image)
            error = schemas.ErrorInfo(code=row.code, detail=image.detail, retryable=row.retryable)
            failed.append(schemas.FailedCandidate(index=index, id=own_id, error=error))
        else:
            scored = _scored(image, body)
            results.append(schemas.RankedCandidate(rank=next(ranks), index=index, id=own_id, **scored))
    return sorted(results, key=lambda result: result.rank), failed


def _scored(scored: ScoredImage, body: bodies.ScoringRequest) -> dict[str, Any]:
    normalized = ranking.sigmoid(scored.raw_score)
    limits = ((scored.raw_score, body.min_score), (normalized, body.min_normalized_score))
    reached = [score >= limit for score, limit in limits if limit is not None]
    return {
        "raw_score": scored.raw_score,
        "normalized_score": normalized,
        "percentile": ranking.percentile(scored.raw_score),
        "passed": all(reached) if reached else None,
        "image": schemas.ImageInfo.model_validate(scored.image),
        "model_version": scored.version.version,
        "cached": scored.cached,
    }


def _answer(result: ScoreResult, started: float) -> dict[str, Any]:
    return {
        "prompt_tokens": result.prompt_tokens,
        "prompt_truncated": result.prompt_truncated,
        "model": _model(result.model),
        "processing_time_ms": round((time.perf_counter() - started) * 1000, 3),
    }


def _model(served: ServedVersion) -> schemas.ModelInfo:
    return schemas.ModelInfo(
        name=served.manifest.name,
        version=served.version,
        weights_sha256=served.manifest.checkpoint_sha256,
        preprocessing=served.manifest.preprocessing,
    )


def _version(served: ServedVersion, *, is_loaded: bool, runtime: str) -> schemas.VersionInfo:
    manifest = served.manifest
    gates = manifest.gates or {}
    return schemas.VersionInfo(
        version=served.version,
        role=served.role,
        share=served.share,
        loaded=is_loaded,
        name=manifest.name,
        weights_sha256=manifest.checkpoint_sha256,
        precision=manifest.precision,
        runtime=runtime,
        published_at=manifest.created_at,
        gates={name: value for name, value in gates.items() if not isinstance(value, dict)} or None,
    )


def _gpu(keeper: Keeper | None) -> schemas.Gpu | None:
    if keeper is None:
        return None
    found = keeper.status()
    ledger = found.outage or "ok"
    return schemas.Gpu(**vars(found), unprotected=found.is_unprotected, ledger=ledger)
