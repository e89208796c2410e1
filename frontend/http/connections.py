"""How many connections there are at one moment, and how long a client may keep one waiting.

A connection costs an open file, and a process may have only so many. If there are too many, one
that waits for its client must go: of the address that has most of them, the slowest of the oldest.
So clients that send and read nothing, or little, shut nobody out. If each connection has a request
in work, a new one is told so, unless its address has few; `/health` is answered even then.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

CROWDED: Final = "crowded"
"""In the state of a request: its connection is one too many, and only health may be asked for."""
GONE: Final = "gone"
"""In the state of a request: a future that is done when its client is gone."""

_PATIENCE_S: Final = 15.0
_MAX_EXTRA: Final = 64
_FEW: Final = 8
"""Connections of one address that do not count as many."""
_OLDEST: Final = 64
"""Of so many the slowest must go."""
_MAX_READ_BYTES: Final = 2**14
_MAX_PLAIN_READ_BYTES: Final = 2**16
"""Of a body with a length, which is not parsed: four times as much at once costs little more."""
_MAX_HEAD_BYTES: Final = 2**14
_MAX_HEADERS: Final = 100
_FREE_PARTS: Final = 100
_MIN_PART_BYTES: Final = 256
"""Parsing a chunk of one byte takes 6 microseconds and more, so a body may not consist of them."""


class Connections:
    """All connections of a process.

    `patience_s` is how long a client may take to send the head of a request, to read what was
    written, or to end a body for which nobody waits.
    """

    def __init__(
        self, max_open: int, *, max_extra: int = _MAX_EXTRA, patience_s: float = _PATIENCE_S
    ) -> None:
        self.patience_s = patience_s
        # Each connection copies what it has read at once.
        self.plain_buffer = memoryview(bytearray(_MAX_PLAIN_READ_BYTES))
        self.buffer = self.plain_buffer[:_MAX_READ_BYTES]
        self._max_open = max_open
        self._max_extra = max_extra
        self._open: set[Connection] = set()
        self._of: Counter[str] = Counter()  # by address
        self._waiting: dict[str, dict[Connection, None]] = {}  # by address; who waits longest is first

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: Connection) -> bool:
        """Count a new connection; return False if there is no place for it, not even by force."""
        is_within = len(self) < self._max_open or self._make_room(connection) or self._has_extra(connection)
        self._open.add(connection)
        self._of[connection.address] += 1
        self.turn(connection, waits=True)
        return is_within

    def has_room_for_extra(self) -> bool:
        """Tell whether a connection that found no place may ask for health."""
        return len(self) <= self._max_open + self._max_extra // 2

    def _has_extra(self, connection: Connection) -> bool:
        """Tell whether there is a place for a connection because its address has few."""
        return self._of[connection.address] < _FEW and len(self) < self._max_open + self._max_extra

    def turn(self, connection: Connection, *, waits: bool) -> None:
        """Note whether a connection waits for its client from now on."""
        waiting = self._waiting.setdefault(connection.address, {})
        waiting.pop(connection, None)
        if waits:
            waiting[connection] = None
        elif not waiting:
            del self._waiting[connection.address]

    def leave(self, connection: Connection) -> None:
        """Count a connection no longer."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        self._of[connection.address] -= 1
        if not self._of[connection.address]:
            del self._of[connection.address]
        self.turn(connection, waits=False)

    def _make_room(self, newcomer: Connection) -> bool:
        most = max(self._waiting, key=self._of.__getitem__, default=None)
        if most is None or self._of[most] < self._of[newcomer.address]:
            return False  # whoever has many takes no place from those who have few
        going = min(islice(self._waiting[most], _OLDEST), key=Connection.bytes_per_s)
        self.leave(going)
        going.transport.abort()
        return True


class Connection(H11Protocol, asyncio.BufferedProtocol):
    """A connection of uvicorn's that ends if its client keeps it waiting.

    It reads little at once, so that others have their turns in between.
    """

    conn: _Parser

    def __init__(self, connections: Connections, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(**options)
        self.conn = _Parser(h11.SERVER, _MAX_HEAD_BYTES)
        self._all = connections
        self._end: asyncio.TimerHandle | None = None
        self._gone = self.loop.create_future()
        self._received_bytes = 0
        self._since_s = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._lingering = _Transport(transport, self.linger)
        super().connection_made(cast("asyncio.Transport", self._lingering))
        self.app_state = {**self.app_state, GONE: self._gone}
        if not self._all.enter(self):
            self.app_state = {**self.app_state, CROWDED: True}
            self.timeout_keep_alive = 0
            if not self._all.has_room_for_extra():
                self._all.leave(self)
                transport.abort()
        self._must_go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.leave(self)
        self._goes_on()
        super().connection_lost(exc)
        self._lingering.leave()
        if self._is_busy():
            self.cycle.body.clear()
        self._gone.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._all.plain_buffer if self.conn.reads_plain_body else self._all.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._received_bytes += nbytes
        if self.transport.is_closing():
            return
        self.data_received(bytes(self._all.plain_buffer[:nbytes]))

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._goes_on()
            self._turn()
        elif self._is_busy() and not self.cycle.more_body:
            self._turn()

    def on_response_complete(self) -> None:
        self.cycle.body.clear()
        self._turn()
        self._must_go_on()
        super().on_response_complete()  # which begins with the next request if it is there already

    def pause_writing(self) -> None:
        super().pause_writing()
        self._turn()
        self._must_go_on()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._turn()
        if self._is_busy():
            self._goes_on()

    def linger(self) -> bool:
        """Read on if the client may still be sending, for a while; return whether it may."""
        if self.conn.their_state is not h11.SEND_BODY:
            return False
        self._turn()
        self.flow.resume_reading()
        self._must_go_on()
        return True

    def shutdown(self) -> None:
        super().shutdown()
        if not self._is_busy():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:  # an answer has begun, or ended, so there can be no other
            self.transport.close()
        if self._is_busy():
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    @property
    def address(self) -> str:
        """The client's address, without its port."""
        return "" if self.client is None else self.client[0]

    def bytes_per_s(self) -> float:
        """Return how fast the client has sent since its request began, or the last one ended."""
        return self._received_bytes / max(self.loop.time() - self._since_s, 1e-3)

    def _is_busy(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _turn(self) -> None:
        if self.transport.is_closing():
            return
        waits = not self._is_busy() or self.cycle.more_body or self.flow.write_paused
        self._all.turn(self, waits=waits)
        self._received_bytes = 0
        self._since_s = self.loop.time()

    def _must_go_on(self) -> None:
        self._goes_on()
        self._end = self.loop.call_later(self._all.patience_s, self.transport.abort)

    def _goes_on(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None


class _Transport:
    """A transport whose answers arrive, also at a client that is still sending.

    Were the socket closed while bytes of the client's are unread, the system would reset the
    connection, and the client lose the answer it has not read yet (RFC 9112, section 9.6). So at
    first only the own half is closed, and what still comes is read and dropped.
    """

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], bool]) -> None:
        """Prepare; `linger` reads on if the client may still send, and returns whether it may."""
        self._transport = transport
        self._linger = linger
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the transport has
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Tell whether nothing is read or written any more."""
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        """Close this half; the other one when the client does, or when this is called again."""
        if self.is_closing() or not self._linger():
            self._transport.close()
        else:
            try:
                self._transport.write_eof()
            except OSError:  # the client is gone
                self._transport.abort()
        self._is_closing = True

    def leave(self) -> None:
        """Let go of the connection, which has ended: in a circle the two would live for long."""
        self._linger = lambda: False


class _Parser(h11.Connection):
    """h11's parser, which refuses a head of many lines and a body in crumbs.

    Parsing costs by the line and by the chunk. All connections that have sent something are parsed
    before anything else goes on, so none may cost much more than a millisecond.
    """

    def __init__(self, role: type[h11.SERVER], max_head_bytes: int) -> None:
        super().__init__(role, max_head_bytes)
        self._parts = 0
        self._body_bytes = 0
        self._has_length = False

    @property
    def reads_plain_body(self) -> bool:
        """Tell whether what comes next is a body in one piece."""
        return self._has_length and self.their_state is h11.SEND_BODY

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        if self.their_state is h11.IDLE and self._has_long_head():
            raise h11.RemoteProtocolError("the head has too many headers")
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._parts = self._body_bytes = 0
            self._has_length = any(name == b"content-length" for name, _ in event.headers)
        elif isinstance(event, h11.Data):
            self._parts += 1
            self._body_bytes += len(event.data)
            if self._parts > _FREE_PARTS + self._body_bytes // _MIN_PART_BYTES:
                raise h11.RemoteProtocolError("the body arrives in crumbs")
        return event

    def _has_long_head(self) -> bool:
        received, _ = self.trailing_data
        head, _, _ = received.partition(b"\r\n\r\n")
        return head.count(b"\n") > _MAX_HEADERS
