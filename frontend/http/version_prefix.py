"""`/v1/...`: the interface's version in front of any path; the layers below never see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX: Final = "/v1"


class VersionPrefixMiddleware:
    """Take the prefix off, so that keys, limits, log and metrics know one path for both."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{_PREFIX}/"):
            scope = {**scope, "path": scope["path"].removeprefix(_PREFIX)}
        await self._app(scope, receive, send)
