"""`/`: the playground, a page that ranks pictures; its files lie in `frontend/static`."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

from fastapi.responses import Response

from frontend.http.errors import NotFound

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

# Pictures are shown from what the browser has: a data: URI, or a file in its memory (blob:).
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_DOCS_LINK: Final = '<a id="docs" href="docs">API documentation</a>'


def add_playground(app: FastAPI, *, links_docs: bool) -> None:
    """Serve the page, with a link to `/docs` if a browser may open that, and the files it needs."""
    static = {file.name: file.read_bytes() for file in (files("frontend") / "static").iterdir()}
    text = static.pop("page.html").decode()
    page = text if links_docs else text.replace(_DOCS_LINK, "")

    async def answer_page(_: Request) -> Response:
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": _POLICY})

    async def answer_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in static:
            raise NotFound("no such path; see /docs")
        return Response(static[name], media_type=_TYPES[name[name.index(".") :]])

    app.add_route("/", answer_page, include_in_schema=False)
    app.add_route("/static/{name}", answer_file, include_in_schema=False)
