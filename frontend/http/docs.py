"""`/docs`: Swagger UI for the OpenAPI document; its files come from a package, not from a host."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

from fastapi.responses import Response

from frontend.http.errors import NotFound

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

# Swagger UI writes styles on elements and has its icons in its CSS. This needs `style-src` and
# `img-src`.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>imajin-aesthetic</title><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="ui"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>
</body></html>
"""
_START: Final = 'SwaggerUIBundle({ url: "openapi.json", dom_id: "#ui", deepLinking: true });\n'
_TYPES: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


def add_docs(app: FastAPI) -> None:
    """Serve the page and the files it needs."""
    app.add_route("/docs", _page, include_in_schema=False)
    app.add_route("/docs/{name}", _file, include_in_schema=False)


async def _page(_: Request) -> Response:
    return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})


def _file(request: Request) -> Response:
    name = request.path_params["name"]
    if name == "start.js":
        return Response(_START, media_type="text/javascript")
    if name not in _TYPES:
        raise NotFound("no such path; see /docs")
    return Response((files("fastapi_swagger") / "resources" / name).read_bytes(), media_type=_TYPES[name])
