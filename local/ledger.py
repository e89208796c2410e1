"""The ledger of `local up --redis`: a Redis of the stack's own that gives the memory of one GPU."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from local import redisserver
from local.supervised import Supervised
from model_boss import Capacity, Claim, Ledger, LedgerOptions, LedgerUnavailable, Nvml

if TYPE_CHECKING:
    from pathlib import Path

    from model_boss import Meter

TOTAL_MB: Final = 8192
"""Where no GPU is seen and nobody says how much the ledger should give."""


@dataclass(frozen=True)
class LedgerSettings:
    """What `local up --redis` was asked for."""

    gpu: str
    """The ledger's name for it: the device's UUID, or `host:index`."""
    port: int = 6379
    gpu_total_mb: int | None = None
    """In MiB; None: what the driver says, or `TOTAL_MB` where no GPU is seen."""
    options: LedgerOptions = field(default_factory=LedgerOptions)
    """As the frontend has them."""


class OwnLedger:
    """One Redis, supervised, that gives the memory of one GPU."""

    def __init__(
        self,
        settings: LedgerSettings,
        *,
        directory: Path,
        host: str,
        reachable: str,
        meter: Meter | None = None,
    ) -> None:
        """Prepare; nothing runs yet.

        Raises:
            NotInstalled: no redis-server was found.
            InvalidClaim: the total cannot be meant.
        """
        self.gpu = settings.gpu
        self._options = settings.options
        self.url = redisserver.configure(
            directory.resolve(), host=host, port=settings.port, reachable=reachable
        )
        self.url_file = directory / "redis.url"
        self.address = f"{reachable}:{settings.port}"
        command = [redisserver.find(), str(directory.resolve() / "redis.conf")]
        self.redis = Supervised("Redis", command, {}, directory / "redis.log", self.is_told)
        self.capacity, self.origin = _capacity(settings, meter or Nvml())

    async def is_told(self) -> bool:
        """Begin the ledger, tell it how much memory there is; False while it does not answer."""
        claim = Claim(self.gpu, "local-up", "local-up", "none", vram_mb=1, priority=0)
        async with Ledger(self.url, self._options) as ledger:
            try:
                await ledger.set_capacity(self.gpu, self.capacity)
                # Nothing is granted for a time to live after the first claim, which need not be the
                # first request's.
                await ledger.reserve(claim)
                await ledger.release(claim)
            except LedgerUnavailable:
                return False
        return True

    async def keep_told(self, *, poll_s: float = 0.5) -> None:
        """Tell the ledger again whenever it does not know, until cancelled.

        A Redis that was started again knows nothing. It grants nothing at first either, for one time to
        live, so nobody is refused for want of a total meanwhile. What somebody else has set stays.
        """
        async with Ledger(self.url, self._options) as ledger:
            while True:
                with suppress(LedgerUnavailable):
                    if (await ledger.table(self.gpu)).total_mb is None:
                        await ledger.set_capacity(self.gpu, self.capacity)
                await asyncio.sleep(poll_s)


def _capacity(settings: LedgerSettings, meter: Meter) -> tuple[Capacity, str]:
    """Take the total that was asked for, else what the driver says, else a number; say which."""
    memory, total_mb = meter.read(settings.gpu), settings.gpu_total_mb
    if memory is not None and total_mb is None:
        capacity = Capacity(memory.total_mb, min(LedgerOptions.margin_mb, memory.total_mb))
        return capacity, f"{memory.total_mb} MiB, measured"
    capacity = Capacity(TOTAL_MB if total_mb is None else total_mb)
    seen = "" if memory is not None else "; no GPU is seen here"
    return capacity, f"{capacity.total_mb} MiB, set by hand{seen}"
