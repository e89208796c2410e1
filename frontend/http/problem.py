"""Errors -> application/problem+json (RFC 9457), in one place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fastapi.responses import JSONResponse

from frontend.errors import InvalidRequest, ServiceError, Unauthorized
from frontend.http.schemas import Problem

if TYPE_CHECKING:
    from pydantic import ValidationError

    from frontend.http.schemas import FailedCandidate

_TYPE_PREFIX: Final = "urn:imajin-aesthetic:error:"


class AllFailed(InvalidRequest):
    """Every candidate of a batch failed; the list of them goes with the error."""

    def __init__(self, detail: str, failed: list[FailedCandidate]) -> None:
        super().__init__(detail)
        self.failed = failed


def problem(error: ServiceError, request_id: str) -> JSONResponse:
    """Write an error's public side; its internal side stays here."""
    content = Problem(
        type=_TYPE_PREFIX + error.code,
        title=error.title,
        status=error.status,
        code=error.code,
        detail=error.detail,
        request_id=request_id,
        failed=error.failed if isinstance(error, AllFailed) else None,
    )
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 wants it with every 401
    return JSONResponse(
        content.model_dump(exclude={"failed"} if content.failed is None else None),
        status_code=error.status,
        media_type="application/problem+json",
        headers=headers,
    )


def describe_validation(error: ValidationError) -> str:
    """Say what is wrong with a body, without repeating what was sent."""
    sentences = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:5]:
        place = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        sentences.append(f"{place}: {message}" if place else message)
    return "; ".join(sentences)
