"""Limits on bodies, the answer to a defect, and clients that go away."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from frontend.http import body_limits
from frontend.http.access_log import AccessLogMiddleware
from frontend.http.body_limits import BodyLimits
from frontend.http.connections import CROWDED, GONE
from frontend.http.request_limits import RequestLimitsMiddleware
from frontend.metrics import Metrics
from frontend.traces import Traces

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Connection:
    """One request as a server would pass it on; it receives the messages that the test puts."""

    def __init__(self, *messages: Message, method: str = "POST", **headers: str) -> None:
        self.gone = asyncio.get_running_loop().create_future()
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "path": "/score",
            "state": {GONE: self.gone},
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        self._messages = deque(messages)
        self._more = asyncio.Event()
        self.sent: list[Message] = []

    def put(self, message: Message) -> None:
        self._messages.append(message)
        self._more.set()

    async def receive(self) -> Message:
        while not self._messages:
            self._more.clear()
            await self._more.wait()
        return self._messages.popleft()

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int | None:
        return next((message["status"] for message in self.sent if "status" in message), None)


def _body(size: int, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


class Reader:
    """An application that reads the body, calls `then` if there is one, and answers 200."""

    def __init__(self, then: Any = None) -> None:
        self._then = then
        self.read = asyncio.Event()
        self.cancelled = False
        self.finished = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        try:
            while (await receive()).get("more_body"):
                pass
            self.read.set()
            if self._then is not None:
                await self._then()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
            self.finished = True
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def _guarded(app: ASGIApp, *, one: int = 100, together: int = 1000) -> tuple[AccessLogMiddleware, BodyLimits]:
    limits = BodyLimits(max_body_bytes=one, max_buffered_bytes=together, small_bytes=10, small_room_bytes=20)
    guarded = RequestLimitsMiddleware(app, limits=limits, keys=None)
    return AccessLogMiddleware(guarded, metrics=Metrics(), traces=Traces()), limits


async def test_a_body_at_its_limit_and_above() -> None:
    """A body of 100 bytes passes a limit of 100, and a longer one is answered 413.

    This is decided by the announced length, and again while the body is read.
    """
    for connection, status in (
        (Connection(_body(60, more=True), _body(40), content_length="100"), 200),
        (Connection(content_length="101"), 413),
        (Connection(_body(60, more=True), _body(41, more=True)), 413),
        (Connection(_body(60, more=True), _body(41), content_length="7"), 413),
    ):
        app, limits = _guarded(Reader())
        await app(connection.scope, connection.receive, connection.send)
        assert connection.status == status
        assert limits.buffered_bytes == 0


async def test_bodies_together_are_bounded() -> None:
    """When the bodies held at one moment reach their limit, the next one is answered 429.

    Once they are done, a body is accepted again.
    """
    leave = asyncio.Event()
    reader = Reader(leave.wait)
    app, limits = _guarded(reader, one=100, together=150)
    first = Connection(_body(100))
    running = asyncio.create_task(app(first.scope, first.receive, first.send))
    await reader.read.wait()
    second = Connection(_body(100))
    await app(second.scope, second.receive, second.send)
    assert second.status == 429
    assert any(name == b"retry-after" for name, _ in second.sent[0]["headers"])
    leave.set()
    await running
    third = Connection(_body(100))
    await app(third.scope, third.receive, third.send)
    assert (first.status, third.status, limits.buffered_bytes) == (200, 200, 0)


async def test_a_body_for_which_there_is_no_room_is_not_received() -> None:
    """An announced body without room is refused before any of it arrives.

    A body that was let in keeps the room that it announced.
    """
    leave = asyncio.Event()
    reader = Reader(leave.wait)
    app, limits = _guarded(reader, one=100, together=150)
    first = Connection(content_length="100")
    running = asyncio.create_task(app(first.scope, first.receive, first.send))
    while not limits.buffered_bytes:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    second = Connection(content_length="51")
    await app(second.scope, second.receive, second.send)
    assert (second.status, limits.buffered_bytes) == (429, 100)
    first.put(_body(100))
    leave.set()
    await running
    assert (first.status, limits.buffered_bytes) == (200, 0)


async def test_small_bodies_have_room_of_their_own() -> None:
    """When large bodies fill their room, small ones are still received, up to their own limit."""
    leave = asyncio.Event()
    app, limits = _guarded(Reader(leave.wait), one=100, together=100)
    connections = [Connection(_body(size)) for size in (100, 10, 10, 10)]
    running = [asyncio.create_task(app(one.scope, one.receive, one.send)) for one in connections]
    for _ in range(20):
        await asyncio.sleep(0)
    assert limits.buffered_bytes == 120
    leave.set()
    await asyncio.gather(*running)
    assert [one.status for one in connections] == [200, 200, 200, 429]
    assert limits.buffered_bytes == 0


async def test_slow_bodies_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """If bodies that do not end hold all the room, the slowest one goes for the next.

    No other body goes.
    """
    app, limits = _guarded(Reader(), one=100, together=250)
    slow = [Connection(_body(size, more=True), content_length="100") for size in (30, 20)]
    running = [asyncio.create_task(app(one.scope, one.receive, one.send)) for one in slow]
    for _ in range(20):
        await asyncio.sleep(0)
    refused = Connection(_body(100))
    await app(refused.scope, refused.receive, refused.send)
    assert (refused.status, limits.buffered_bytes) == (429, 200)  # nobody is slow yet
    monkeypatch.setattr(body_limits, "_PATIENCE_S", 0.0)
    good = Connection(_body(100), content_length="100")
    await app(good.scope, good.receive, good.send)
    await asyncio.wait_for(running[1], 5)
    assert (good.status, slow[1].status, slow[0].status) == (200, 429, None)
    slow[0].put(_body(70))
    await asyncio.wait_for(running[0], 5)
    assert (slow[0].status, limits.buffered_bytes) == (200, 0)


async def test_a_body_that_hardly_arrives_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request below the least rate ends before its deadline; above that rate it goes on."""
    monkeypatch.setattr(body_limits, "_PATIENCE_S", 0.1)
    app, limits = _guarded(Reader(), one=2**20, together=2**20)
    slow = Connection(_body(10, more=True))
    await asyncio.wait_for(app(slow.scope, slow.receive, slow.send), 10)
    assert (slow.status, limits.buffered_bytes) == (504, 0)
    fast = Connection(_body(2**19, more=True))
    running = asyncio.create_task(app(fast.scope, fast.receive, fast.send))
    await asyncio.sleep(0.3)
    fast.put(_body(1))
    await asyncio.wait_for(running, 10)
    assert fast.status == 200


async def test_requests_that_arrive_together_begin_one_by_one() -> None:
    """Between the starts of two requests, the event loop serves everything else once."""
    loop_round = 0
    begun: list[int] = []

    async def count_rounds() -> None:
        nonlocal loop_round
        while True:
            loop_round += 1
            await asyncio.sleep(0)

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(loop_round)
        await Reader()(scope, receive, send)

    app, _ = _guarded(note)
    counting = asyncio.create_task(count_rounds())
    connections = [Connection(_body(1)) for _ in range(20)]
    await asyncio.gather(*(app(one.scope, one.receive, one.send) for one in connections))
    counting.cancel()
    assert [one.status for one in connections] == [200] * 20
    assert len(set(begun)) == 20


async def test_a_client_that_goes_away_ends_its_request() -> None:
    """When the client goes away, its work is cancelled and nothing is sent.

    Its bytes no longer count.
    """
    reader = Reader(asyncio.Event().wait)
    app, limits = _guarded(reader)
    connection = Connection(_body(50))
    running = asyncio.create_task(app(connection.scope, connection.receive, connection.send))
    await reader.read.wait()
    assert limits.buffered_bytes == 50
    connection.gone.set_result(None)
    await asyncio.wait_for(running, 5)
    assert (reader.cancelled, connection.sent, limits.buffered_bytes) == (True, [], 0)


async def test_a_client_that_goes_away_after_its_answer_costs_nothing() -> None:
    """A client that goes together with the answer is no error, and nothing is cancelled for it."""
    for _ in range(20):
        connection = Connection(_body(5))

        async def leave(gone: asyncio.Future[None] = connection.gone) -> None:
            gone.set_result(None)

        app, _ = _guarded(Reader(leave))
        await app(connection.scope, connection.receive, connection.send)
        await asyncio.sleep(0)
        assert connection.status == 200
    assert len(asyncio.all_tasks()) == 1
    gc.collect()  # an exception that nobody asked for would be reported now


async def test_a_server_that_ends_cancels_its_requests() -> None:
    """A cancellation from outside reaches the application and is passed on."""
    reader = Reader(asyncio.Event().wait)
    app, limits = _guarded(reader)
    connection = Connection(_body(50))
    running = asyncio.create_task(app(connection.scope, connection.receive, connection.send))
    await reader.read.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (reader.cancelled, limits.buffered_bytes) == (True, 0)


async def test_a_defect_is_500_and_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is answered 500 without its text; the log has the traceback."""

    async def fail() -> None:
        raise KeyError("inner working")

    app, _ = _guarded(Reader(fail))
    connection = Connection(_body(5))
    await app(connection.scope, connection.receive, connection.send)
    assert connection.status == 500
    assert b"inner working" not in connection.sent[1]["body"]
    fields = caplog.records[-1].fields  # type: ignore[attr-defined] # the `extra` of log_request
    assert "KeyError: 'inner working'" in fields["internal"]


async def test_where_it_is_crowded_only_health_is_answered() -> None:
    """A connection that is one too many is answered 429 and closed; health is answered as ever."""
    app, _ = _guarded(Reader())
    for path, status in (("/score", 429), ("/nowhere", 429), ("/health/ready", 200), ("/health", 200)):
        connection = Connection(_body(5))
        connection.scope["path"] = path
        connection.scope["state"][CROWDED] = True
        await app(connection.scope, connection.receive, connection.send)
        assert connection.status == status
        closing = (b"connection", b"close") in connection.sent[0]["headers"]
        assert closing == (status == 429)


async def test_who_goes_before_it_is_its_turn_begins_nothing() -> None:
    """Requests begin one by one, and one whose client is gone by then leaves at once.

    Clients that send and go faster than requests begin would fill the memory otherwise.
    """
    reader = Reader()
    app, _ = _guarded(reader)
    connections = [Connection(_body(5)) for _ in range(100)]
    running = [
        asyncio.create_task(app(connection.scope, connection.receive, connection.send))
        for connection in connections
    ]
    for connection in connections[1:]:
        connection.gone.set_result(None)
    await asyncio.gather(*running)
    assert [bool(connection.sent) for connection in connections] == [True] + [False] * 99


async def test_addresses_take_turns_to_begin() -> None:
    """Who asks once begins before the second request of an address that asks often."""
    begun: list[str] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        begun.append(scope["client"][0])

    app, _ = _guarded(note)
    connections = [Connection(_body(5)) for _ in range(21)]
    for number, connection in enumerate(connections):
        connection.scope["client"] = ("10.0.0.1" if number < 20 else "10.0.0.2", 1)
    await asyncio.gather(
        *(app(connection.scope, connection.receive, connection.send) for connection in connections)
    )
    assert begun.index("10.0.0.2") <= 2
