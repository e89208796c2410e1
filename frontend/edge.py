"""The outermost frame of every request: its id, its body's limit, its line in the log, its last error."""

from __future__ import annotations

import re
import secrets
import time
import traceback
from typing import TYPE_CHECKING, Final

from frontend.errors import Internal, PayloadTooLarge, ServiceError
from frontend.logs import log_request
from frontend.problem import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from frontend.metrics import Metrics

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ENDPOINTS: Final = frozenset(
    {"/", "/docs", "/health", "/health/live", "/health/ready", "/info", "/metrics", "/openapi.json"}
    | {"/score", "/score-batch"}
)


class Edge:
    """ASGI middleware; nothing that a request raises passes it."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, metrics: Metrics) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(scope, receive, send, self._max_body_bytes, self._metrics).run(self._app)


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int, metrics: Metrics
    ) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        sent = self._headers.get(b"x-request-id", "")
        self._request_id = sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)
        self._received_bytes = 0
        self._status: int | None = None
        self._internal: str | None = None

    async def run(self, app: ASGIApp) -> None:
        started = time.perf_counter()
        self._scope.setdefault("state", {})["request_id"] = self._request_id
        self._scope["state"]["note_internal"] = self._note_internal
        try:
            self._check_content_length()
            await app(self._scope, self.receive, self.send)
        except ServiceError as error:
            await self._fail(error)
        except Exception:  # noqa: BLE001 - the outermost frame on the REST side
            await self._fail(Internal("an internal error occurred", internal=traceback.format_exc()))
        finally:
            self._record(time.perf_counter() - started)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > self._max_body_bytes:
                raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [
                *message.get("headers", []),
                (b"x-request-id", self._request_id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        await self._send(message)

    def _check_content_length(self) -> None:
        announced = self._headers.get(b"content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body has more than the {self._max_body_bytes} bytes allowed")

    async def _fail(self, error: ServiceError) -> None:
        self._note_internal(error)
        if self._status is None:
            await problem(error, self._request_id)(self._scope, self._receive, self.send)

    def _note_internal(self, error: ServiceError) -> None:
        self._internal = error.internal

    def _record(self, seconds: float) -> None:
        path = self._scope["path"]
        endpoint = path if path in _ENDPOINTS else "other"
        status = self._status or 499  # the client went away before there was an answer
        self._metrics.requests.labels(endpoint, str(status)).inc()
        self._metrics.request_seconds.labels(endpoint).observe(seconds)
        log_request(
            request_id=self._request_id,
            method=self._scope["method"],
            path=endpoint,
            status=status,
            duration_ms=round(seconds * 1000, 1),
            received_bytes=self._received_bytes,
            internal=self._internal,
        )
