"""The outermost layer: every answer's request id and security headers, and its log line."""

from __future__ import annotations

import re
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.datastructures import MutableHeaders

from frontend.logs import log_request

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from frontend.metrics import Metrics
    from frontend.traces import Traces

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ENDPOINTS: Final = frozenset(
    {"/", "/docs", "/health", "/health/live", "/health/ready", "/info", "/metrics", "/openapi.json"}
    | {"/score", "/score-batch"}
)
_PROBES: Final = frozenset({"/health/live", "/health/ready"})
# An answer that is a page sets its own policy.
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_CLIENT_GONE: Final = 499  # nginx's word for it: there was nobody left to answer


class AccessLogMiddleware:
    """Give every request an id, every answer its headers, and the log a line for both.

    The layers below find `request_id` in `scope["state"]`, and `notes`, which they add to the log
    line.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, traces: Traces) -> None:
        self._app = app
        self._metrics = metrics
        self._was_well: dict[str, bool] = {}
        """What each probe found last, from the first time on that it found all well."""
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        notes: dict[str, object] = {}
        scope.setdefault("state", {}).update(request_id=request_id, notes=notes)
        status = _CLIENT_GONE

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        endpoint = scope["path"] if scope["path"] in _ENDPOINTS else "other"
        with self._traces.request(endpoint, scope["headers"], notes) as finish:
            try:
                await self._app(scope, receive, send_on)
            finally:
                finish(status, notes)
                self._record(scope, endpoint, status, time.perf_counter() - started, request_id, notes)

    def _record(
        self,
        scope: Scope,
        endpoint: str,
        status: int,
        seconds: float,
        request_id: str,
        notes: dict[str, object],
    ) -> None:
        self._metrics.requests.labels(endpoint, str(status)).inc()
        if "error" in notes:
            self._metrics.errors.labels(endpoint, str(notes["error"])).inc()
        self._metrics.request_seconds.labels(endpoint).observe(seconds)
        if endpoint in _PROBES and not self._is_news(endpoint, status == HTTPStatus.OK):
            return
        log_request(
            request_id=request_id,
            method=scope["method"],
            path=endpoint,
            status=status,
            duration_ms=round(seconds * 1000, 1),
            **notes,
        )

    def _is_news(self, probe: str, is_well: bool) -> bool:
        """Whether a probe, which supervisors send every few seconds, finds what it did not before.

        That a service is not ready at its start is no news.
        """
        was_well = self._was_well.get(probe)
        if is_well or was_well is not None:
            self._was_well[probe] = is_well
        return was_well is not None and was_well != is_well


def _request_id(scope: Scope) -> str:
    sent = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)
