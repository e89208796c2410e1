"""What readers and generators need of the OpenAPI document: names, keys, codes, true defaults."""

from __future__ import annotations

from typing import Any, Final

from frontend.http.problem import KINDS, TYPE_PREFIX, Kind
from frontend.http.schemas import Problem

_OPERATION_IDS: Final = {
    "/score": "score",
    "/score-batch": "scoreBatch",
    "/info": "info",
    "/health": "health",
    "/health/live": "live",
    "/health/ready": "ready",
    "/metrics": "metrics",
}
_SCORING: Final = frozenset({"/score", "/score-batch"})
_OPEN: Final = frozenset({"/health", "/health/live", "/health/ready"})
_PROBLEM: Final = "application/problem+json"
_SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where keys are configured."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}


def complete_names(document: dict[str, Any]) -> None:
    """Write them into the document."""
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["operationId"] = _OPERATION_IDS[path]
            operation["tags"] = ["scoring" if path in _SCORING else "service"]
            if path in _OPEN:
                operation["security"] = []
            for status, response in operation["responses"].items():
                if _PROBLEM in response.get("content", {}):
                    _name_problems(int(status), response)
    document["security"] = [{}, {"bearer": []}, {"apiKey": []}]  # no key, or either
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    _complete_schemas(document["components"]["schemas"])


def _name_problems(status: int, response: dict[str, Any]) -> None:
    """Say which errors have this status, each with an example."""
    kinds = {kind.code: kind for kind in KINDS.values() if kind.status == status}
    response["description"] = "; ".join(kind.title for kind in kinds.values())
    response["content"][_PROBLEM]["examples"] = {
        code: {"value": _example(kind)} for code, kind in sorted(kinds.items())
    }


def _example(kind: Kind) -> dict[str, Any]:
    problem = Problem(
        type=TYPE_PREFIX + kind.code,
        title=kind.title,
        status=kind.status,
        code=kind.code,
        detail="what went wrong, in a sentence",
        retryable=kind.retryable,
        request_id="4f1c8a52d0e34b7b",
    )
    return problem.model_dump(exclude={"failed"})


def _complete_schemas(schemas: dict[str, Any]) -> None:
    for schema in schemas.values():
        # In a request, a default says what need not be sent. In an answer it says nothing, because
        # the field is always there.
        # Generators take a field that has one for a field that is always there.
        for name, field in schema.get("properties", {}).items():
            if "default" in field and field.pop("default") is not None:
                schema["required"] = [*schema.get("required", []), name]
    schemas["ErrorCode"] = {
        "type": "string",
        "enum": sorted({kind.code for kind in KINDS.values()}),
        "description": "What went wrong, for programs.",
    }
    for name in ("Problem", "ErrorInfo"):
        schemas[name]["properties"]["code"] = {"$ref": "#/components/schemas/ErrorCode"}
    for name in ("ScoreRequest", "Candidate"):
        schemas[name]["x-exactly-one-of"] = ["image_url", "image_base64"]
