"""Errors -> application/problem+json (RFC 9457), their statuses and codes; known here alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from frontend.errors import DeadlineExceeded, ServiceError
from frontend.gpu.errors import GpuUnavailable
from frontend.http import errors as http
from frontend.http.schemas import Problem
from frontend.images import errors as images
from frontend.scoring import errors as scoring
from frontend.triton import errors as triton

if TYPE_CHECKING:
    from fastapi import Request
    from pydantic import ValidationError

TYPE_PREFIX: Final = "urn:imajin-aesthetic:error:"


class Kind(NamedTuple):
    """How the interface names a kind of error."""

    status: int
    code: str
    title: str
    retryable: bool = False
    """Whether the same request may succeed later."""


_INVALID: Final = Kind(422, "invalid_request", "The request is not valid")
_OVERLOADED: Final = Kind(429, "overloaded", "The service is overloaded", retryable=True)  # + Retry-After
_GPU: Final = Kind(503, "gpu_unavailable", "No GPU memory is available", retryable=True)  # + Retry-After
_MODEL: Final = Kind(503, "model_unavailable", "The model is not available", retryable=True)  # + Retry-After
_DEADLINE: Final = Kind(504, "deadline_exceeded", "The deadline passed", retryable=True)
_INTERNAL: Final = Kind(500, "internal", "The service failed")

# A class that is not here is answered as its nearest base: at last as a defect of ours.
KINDS: Final[dict[type[ServiceError], Kind]] = {
    ServiceError: _INTERNAL,
    DeadlineExceeded: _DEADLINE,
    http.InvalidRequest: _INVALID,
    http.PayloadTooLarge: Kind(413, "payload_too_large", "The payload is too large"),
    http.Unauthorized: Kind(401, "unauthorized", "A valid API key is needed"),
    http.NotFound: Kind(404, "not_found", "There is nothing here"),
    http.MethodNotAllowed: Kind(405, "method_not_allowed", "The method is not allowed here"),
    images.ImageTooLarge: Kind(413, "image_too_large", "The image is too large"),
    images.ImageUndecodable: Kind(422, "image_undecodable", "The image cannot be decoded"),
    images.ImageUrlForbidden: Kind(422, "image_url_forbidden", "The image URL is not allowed"),
    images.ImageUnreachable: Kind(422, "image_unreachable", "The image cannot be fetched"),
    images.ImageNotReached: Kind(422, "image_unreachable", "The image cannot be fetched", retryable=True),
    images.TooManyFetched: _OVERLOADED,
    scoring.PromptInvalid: _INVALID,
    scoring.UnknownVersion: Kind(422, "unknown_version", "This version is not served"),
    scoring.Overloaded: _OVERLOADED,
    GpuUnavailable: _GPU,
    triton.Unavailable: _MODEL,
    triton.QueueFull: _OVERLOADED,
    triton.TimedOut: _DEADLINE,
}
CODES: Final = sorted({row.code for row in KINDS.values()})


def kind(error: ServiceError) -> Kind:
    """Find an error's row in the table."""
    return next(KINDS[base] for base in type(error).__mro__ if base in KINDS)


def problem(error: ServiceError, request_id: str, notes: dict[str, object]) -> JSONResponse:
    """Write an error's public side, and note its code and its internal side for the log line."""
    status, code, title, retryable = _shared(error) if isinstance(error, http.AllFailed) else kind(error)
    notes["error"] = code
    if error.internal is not None:
        notes["internal"] = error.internal
    content = Problem(
        type=TYPE_PREFIX + code,
        title=title,
        status=status,
        code=code,
        detail=error.detail,
        retryable=retryable,
        request_id=request_id,
        failed=error.failed if isinstance(error, http.AllFailed) else None,
    )
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, http.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 wants it with every 401
    return JSONResponse(
        content.model_dump(exclude={"failed"} if content.failed is None else None),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def _shared(error: http.AllFailed) -> Kind:
    """Find what the failures of a whole batch have in common."""
    failures = [failed.error for failed in error.failed]
    codes = {failure.code for failure in failures}
    code = codes.pop() if len(codes) == 1 else _INVALID.code
    title = next(row.title for row in KINDS.values() if row.code == code)
    if all(failure.retryable for failure in failures):
        return Kind(503, code, title, retryable=True)
    return Kind(422, code, title)


async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Translate what the framework itself raises."""
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            translated: ServiceError = http.NotFound("no such path; see /docs")
        case 405:
            translated = http.MethodNotAllowed("this path does not answer this method; see /docs")
        case 400 | 422:
            translated = http.InvalidRequest(str(error.detail))
        case _:
            translated = ServiceError("an internal error occurred", internal=str(error.detail))
    response = problem(translated, request.state.request_id, request.state.notes)
    response.headers.update(error.headers or {})  # Allow, for 405
    return response


def describe_validation(error: ValidationError) -> str:
    """Say what is wrong with a body, without repeating what was sent."""
    sentences = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:5]:
        place = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        sentences.append(f"{place}: {message}" if place else message)
    return "; ".join(sentences)
