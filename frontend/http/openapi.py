"""The OpenAPI document, completed for those who generate clients from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from frontend.http import schemas
from frontend.http.problem import KINDS

if TYPE_CHECKING:
    from fastapi import FastAPI

_OPERATION_IDS: Final = {
    "/score": "score",
    "/score-batch": "scoreBatch",
    "/info": "info",
    "/health": "health",
    "/health/live": "live",
    "/health/ready": "ready",
    "/metrics": "metrics",
}
_SCORING: Final = {"/score", "/score-batch"}
_OPEN: Final = {"/health", "/health/live", "/health/ready"}
_SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where keys are configured."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
_WITHOUT_OR_WITH_KEY: Final[list[dict[str, list[str]]]] = [{}, {"bearer": []}, {"apiKey": []}]
_ONE_SOURCE: Final = ["image_url", "image_base64"]


def complete_openapi(app: FastAPI) -> None:
    """Have the application write the document that clients are generated from."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generate())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's own documented way


def _complete(document: dict[str, Any]) -> None:
    _name_operations(document["paths"])
    components = document["components"]
    _add_schemas(components["schemas"])
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    document["security"] = _WITHOUT_OR_WITH_KEY


def _name_operations(paths: dict[str, Any]) -> None:
    for path, methods in paths.items():
        for operation in methods.values():
            operation["operationId"] = _OPERATION_IDS[path]
            operation["tags"] = ["scoring" if path in _SCORING else "service"]
            if path in _OPEN:
                operation["security"] = []


def _add_schemas(components: dict[str, Any]) -> None:
    """Add what endpoints parse and answer themselves, which FastAPI does not see."""
    for model in (schemas.ScoreRequest, schemas.BatchRequest, schemas.Problem):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        components.update(schema.pop("$defs", {}))
        components[model.__name__] = schema
    for schema in components.values():
        for field in schema.get("properties", {}).values():
            if field.get("default", field) is None:
                del field["default"]  # what need not be sent; generators take a default for always there
    codes = sorted({kind.code for kind in KINDS.values()})
    components["ErrorCode"] = {
        "type": "string",
        "enum": codes,
        "description": "What went wrong, for programs.",
    }
    for name in ("Problem", "ErrorInfo"):
        components[name]["properties"]["code"] = {"$ref": "#/components/schemas/ErrorCode"}
    for name in ("ScoreRequest", "Candidate"):
        components[name]["x-exactly-one-of"] = _ONE_SOURCE
