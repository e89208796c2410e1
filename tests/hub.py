"""A stand-in for the Hugging Face hub: one file, served as the hub serves it.

`huggingface_hub` reads its environment when it is imported. So the code under test runs in
processes of its own, under `environment`.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, Self, cast

from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

COMMIT: Final = "c0ffee" + 34 * "0"


@dataclass
class Hub:
    """The server; `requests` has every request for the file."""

    path: str
    """The path of the file: `owner/name/resolve/main/file`."""
    content: bytes
    etag: str = ""
    """By default the sha256 of the content, as the hub gives it for large files."""
    status: int = 200
    cut_after: int | None = None
    """The first download is cut off after this many bytes."""
    requests: list[str] = field(default_factory=list)
    """Each is `HEAD`, `GET` or `GET bytes=7-`."""

    def __enter__(self) -> Self:
        self.etag = self.etag or hashlib.sha256(self.content).hexdigest()
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Return the endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"


def environment(cache: Path, endpoint: str, **more: str) -> dict[str, str]:
    """Return an environment with this endpoint and cache, and with no proxy in between."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().endswith("_PROXY") and not name.startswith("HF_")
    }
    return {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "PYTHONPATH": str(CHECKOUT), **more}


def nobody() -> str:
    """Return an endpoint at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def python(env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in that environment."""
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, check=False, timeout=250
    )


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    @property
    def _hub(self) -> Hub:
        return cast("_Server", self.server).hub

    def do_HEAD(self) -> None:
        if self._is_asked_for():
            self._hub.requests.append("HEAD")
            self._send_head(self._hub.status, len(self._hub.content))

    def do_GET(self) -> None:
        if not self._is_asked_for():
            return
        hub, wanted = self._hub, self.headers.get("Range")
        hub.requests.append(f"GET {wanted}" if wanted else "GET")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        body = hub.content[start:]
        self._send_head(206 if start else hub.status, len(body), start)
        if hub.cut_after is not None:
            body, hub.cut_after = body[: hub.cut_after], None
        self.wfile.write(body)
        self.close_connection = True

    def _is_asked_for(self) -> bool:
        if self.path == f"/{self._hub.path}":
            return True
        self.send_error(404)  # what the client asks its hub beside the file
        return False

    def _send_head(self, status: int, length: int, start: int = 0) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self._hub.etag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        if status == 206:
            total = len(self._hub.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass
