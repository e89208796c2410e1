"""The process of `python -m frontend`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from local.http_call import http_call
from tests.ports import free_ports
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path


def test_it_is_not_ready_for_a_while_before_it_ends(tmp_path: Path) -> None:
    """After SIGTERM `/health/ready` says so while requests are taken still; then it ends."""
    (port,) = free_ports(1)
    environment = {
        **os.environ,
        "AESTHETIC_PORT": str(port),
        "AESTHETIC_TRITON_URL": "127.0.0.1:9",
        "AESTHETIC_SHUTDOWN_DELAY_S": "2",
        "AESTHETIC_DECODE_WORKERS": "1",
    }
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "frontend"]
        process = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(lambda: http_call(f"{url}/health/live", timeout_s=5)[0] == 200, process)
        assert "frontend" not in _parts(url)
        process.send_signal(signal.SIGTERM)
        _wait_for(lambda: "frontend" in _parts(url), process)
        assert http_call(f"{url}/health/ready", timeout_s=5)[0] == 503
        assert http_call(f"{url}/health/live", timeout_s=5)[0] == 200
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _parts(url: str) -> dict[str, Any]:
    _, body = http_call(f"{url}/health", timeout_s=5)
    parts: dict[str, Any] = json.loads(body)["parts"]
    return parts


def _wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
