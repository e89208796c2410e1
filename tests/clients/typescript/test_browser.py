"""The TypeScript client in a browser, with the package's files as they are.

There is no bundler, and the page has another origin.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.clients.conftest import API_KEY
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.stack import RunningStack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(ThreadingHTTPServer):
    """A page that uses the package, what it loads, and what it found."""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Files, directory=str(directory)))
        self.found: queue.Queue[Any] = queue.Queue()


class _Files(SimpleHTTPRequestHandler):
    server: Page

    def do_POST(self) -> None:
        self.server.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def page(built: None, tmp_path: Path) -> Iterator[Page]:  # noqa: ARG001 - the package is compiled before
    """The page, served."""
    shutil.copy(Path(__file__).with_name("page.html"), tmp_path)
    shutil.copy(CHECKOUT / "examples/1-09.jpg", tmp_path / "picture.jpg")
    shutil.copytree(CHECKOUT / "clients/typescript/client/dist", tmp_path / "client/dist")
    server = Page(tmp_path)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser(service: RunningStack, page: Page, tmp_path: Path) -> None:
    """Blobs and files are scored, errors have their classes and the service's id of the request."""
    arguments = quote(json.dumps([service.url, API_KEY]))
    command = [
        str(CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--remote-debugging-port=0", f"http://127.0.0.1:{page.server_port}/page.html#{arguments}"),
    ]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = page.found.get(timeout=90)
    finally:
        browser.terminate()
        browser.wait(timeout=20)
    assert found.pop("blob") > 1
    assert found == {
        "best": "fits",
        "ready": "ready",
        "undecodable": ["ImageUndecodable", True],
        "stranger": ["Unauthorized", True],
        "classes": ["ImageUndecodable", "Unauthorized"],
    }
