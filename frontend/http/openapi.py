"""The OpenAPI document: what FastAPI cannot see of endpoints that parse and answer themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from frontend.http import schemas
from frontend.http.openapi_names import complete_names

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import BaseModel

TIMEOUT_HEADER: Final = "X-Request-Timeout-Ms"
_REFERENCE: Final = "#/components/schemas/{model}"
_REFERRED_TO: Final = (
    schemas.ScoreRequest,
    schemas.ScoreUpload,
    schemas.BatchRequest,
    schemas.BatchUpload,
    schemas.Problem,
)
_TIMEOUT_PARAMETER: Final = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "description": "Deadline of this request in milliseconds.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors that an endpoint answers."""
    content = {"application/problem+json": _schema(schemas.Problem)}
    return {status: {"description": "An error (RFC 9457)", "content": content} for status in statuses}


def scoring_body(json: type[BaseModel], form: type[BaseModel]) -> dict[str, Any]:
    """Describe the body of an endpoint that scores, and its deadline."""
    content = {"application/json": _schema(json), "multipart/form-data": _schema(form)}
    return {
        "requestBody": {"required": True, "content": content},
        "parameters": [_TIMEOUT_PARAMETER],
    }


def complete_openapi(app: FastAPI) -> None:
    """Add the schemas that are only referred to, and what generators of clients need."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            components = document["components"]["schemas"]
            for model in _REFERRED_TO:
                schema = model.model_json_schema(ref_template=_REFERENCE)
                components.update(schema.pop("$defs", {}))
                components[model.__name__] = schema
            complete_names(document)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's own documented way


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}
