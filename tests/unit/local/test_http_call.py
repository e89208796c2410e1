"""How the stack calls its own servers."""

from __future__ import annotations

import http.server
import threading
from typing import TYPE_CHECKING

import pytest

from local.http_call import http_call
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator


class Handler(http.server.BaseHTTPRequestHandler):
    """Answer with what was posted, or with 503."""

    def do_GET(self) -> None:
        self._answer(503, b"none")

    def do_POST(self) -> None:
        self._answer(200, self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    """The address of the handler."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/path"
        server.shutdown()


def test_status_and_body_are_returned(url: str) -> None:
    """The body is returned with its status, for an error as well: it says what is wrong."""
    assert http_call(url, timeout_s=30) == (503, b"none")
    assert http_call(url, "{}", timeout_s=30) == (200, b"{}")


def test_nobody_answers() -> None:
    """If nobody answers, that is no error of the caller."""
    (port,) = free_ports(1)
    assert http_call(f"http://127.0.0.1:{port}/", timeout_s=30) == (0, b"")


def test_a_proxy_of_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own servers are not called through the environment's proxy."""
    (port,) = free_ports(1)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    assert http_call(url, timeout_s=30) == (503, b"none")
