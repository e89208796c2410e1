"""The TypeScript client in a browser, as the files of the package are: no bundler, another origin."""

from __future__ import annotations

import html
import json
import re
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


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def origin(built: None, tmp_path: Path) -> Iterator[str]:  # noqa: ARG001 - the package is compiled before
    """A page that uses the package, and what it loads."""
    here = Path(__file__).parent
    shutil.copy(here / "page.html", tmp_path)
    shutil.copy(CHECKOUT / "examples/1-09.jpg", tmp_path / "picture.jpg")
    shutil.copytree(CHECKOUT / "clients/typescript/client/dist", tmp_path / "client/dist")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser(service: RunningStack, origin: str, tmp_path: Path) -> None:
    """Blobs and files are scored, errors have their classes and the service's id of the request."""
    arguments = quote(json.dumps([service.url, API_KEY]))
    command = [
        str(CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--virtual-time-budget=30000", "--dump-dom", f"{origin}/page.html#{arguments}"),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text is not None
    assert text[1], done.stderr[-3000:]
    found = json.loads(html.unescape(text[1]))
    assert found.pop("blob") > 1
    assert found == {
        "best": "fits",
        "ready": "ready",
        "undecodable": ["ImageUndecodable", True],
        "stranger": ["Unauthorized", True],
        "classes": ["ImageUndecodable", "Unauthorized"],
    }
