"""The checks of every request before it is worked on, and the last place its errors reach.

The checks are key, announced size, size while it is read, and bodies held at once. A client that
goes away ends its request.
"""

from __future__ import annotations

import asyncio
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect

from frontend.errors import ServiceError
from frontend.http.body_limits import Body, BodyLimits
from frontend.http.connections import CROWDED, GONE
from frontend.http.errors import InvalidRequest, Unauthorized
from frontend.http.problem import problem
from frontend.images.turns import Turns
from frontend.scoring.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from frontend.http.keys import KeyRing

_HEALTH_PATHS: Final = frozenset({"/health", "/health/live", "/health/ready"})
_OPEN_PATHS: Final = _HEALTH_PATHS | {"/"}
_OPEN_PREFIX: Final = "/static/"  # what the page consists of
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class RequestLimitsMiddleware:
    """Refuse what may not pass, and answer every error that a request raises."""

    def __init__(self, app: ASGIApp, *, limits: BodyLimits, keys: KeyRing | None) -> None:
        self._app = app
        self._limits = limits
        self._keys = keys
        self._door = Turns(1, max_each=1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if await self._may_begin(scope):
            await _Exchange(scope, receive, send, self._limits, self._keys).run(self._app)

    async def _may_begin(self, scope: Scope) -> bool:
        """Wait for a turn to begin; return False if the client is gone meanwhile.

        Requests that arrive in one round of the event loop begin one by one, and addresses take
        turns.
        """
        who = (scope.get("client") or [""])[0]
        if not self._door.take_now(who):
            try:
                async with _unless_gone(scope):
                    await self._door.take(who)
            except ClientDisconnect:
                return False
        try:
            await asyncio.sleep(0)
        finally:
            self._door.give_back(who)
        return True


@asynccontextmanager
async def _unless_gone(scope: Scope) -> AsyncIterator[None]:
    """Cancel what the block does when its client closes its `Connection`.

    Raises:
        ClientDisconnect: the block was cancelled for that.
    """
    gone: asyncio.Future[None] | None = scope["state"].get(GONE)
    task = asyncio.current_task()
    if gone is None or task is None:
        yield
        return
    is_over = False

    def leave(_: asyncio.Future[None]) -> None:
        if not is_over:
            task.cancel()

    gone.add_done_callback(leave)
    try:
        yield
    except asyncio.CancelledError:
        if gone.done() and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        is_over = True
        gone.remove_done_callback(leave)


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, limits: BodyLimits, keys: KeyRing | None
    ) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._limits = limits
        self._keys = keys
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._notes: dict[str, object] = scope["state"]["notes"]
        self._body = Body()
        self._answering = False
        self._is_last = False

    async def run(self, app: ASGIApp) -> None:
        try:
            self._check_framing()
            self._check_connection()
            self._check_key()
            self._check_announced_size()
            if self._scope["method"] in _WITHOUT_BODY:
                await app(self._scope, self.receive, self.send)
            else:
                async with _unless_gone(self._scope):
                    await app(self._scope, self.receive, self.send)
        except ClientDisconnect:
            pass  # nobody is left to answer
        except ServiceError as error:
            await self._fail(error)
        except Exception:  # noqa: BLE001 - the outermost frame on the REST side
            await self._fail(ServiceError("an internal error occurred", internal=traceback.format_exc()))
        finally:
            self._limits.let_go(self._body)
            self._notes["received_bytes"] = self._body.received_bytes

    async def receive(self) -> Message:
        message = await self._body.receive(self._receive)
        self._limits.hold(self._body, self._body.received_bytes)
        if self._body.is_read.is_set():
            self._limits.arrived(self._body)
        return message

    async def send(self, message: Message) -> None:
        self._answering = True
        await self._send(message)

    def _check_key(self) -> None:
        path = self._scope["path"]
        if self._keys is None or path in _OPEN_PATHS or path.startswith(_OPEN_PREFIX):
            return
        sent = self._headers.get(b"x-api-key")
        scheme, _, token = self._headers.get(b"authorization", b"").partition(b" ")
        if sent is None and scheme.lower() == b"bearer":
            sent = token.strip()
        name = None if sent is None else self._keys.name_of(sent)
        if name is None:
            raise Unauthorized("send a valid key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        self._notes["key"] = name

    def _check_framing(self) -> None:
        """Refuse a body with two lengths: a proxy may have read the other one (RFC 9112)."""
        if {b"content-length", b"transfer-encoding"} <= self._headers.keys():
            self._is_last = True
            raise InvalidRequest("Content-Length and Transfer-Encoding exclude one another")

    def _check_connection(self) -> None:
        if self._scope["state"].get(CROWDED) and self._scope["path"] not in _HEALTH_PATHS:
            self._is_last = True
            raise Overloaded("too many connections have requests in work", retry_after_s=1.0)

    def _check_announced_size(self) -> None:
        announced = self._headers.get(b"content-length", b"0")
        self._limits.hold(self._body, int(announced) if announced.isdigit() else 0)

    async def _fail(self, error: ServiceError) -> None:
        response = problem(error, self._scope["state"]["request_id"], self._notes)
        if not self._answering:
            if self._is_last:
                response.headers["Connection"] = "close"
            await response(self._scope, self._receive, self.send)
