"""A holder's measurements of its GPU, taken with its heartbeats."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from model_boss.clock import now_s

if TYPE_CHECKING:
    from model_boss.ledger import Ledger
    from model_boss.memory import Meter

_LOG: Final = logging.getLogger("model_boss")


class Gauge:
    """Tells the ledger how much memory everybody uses, if it has a meter."""

    def __init__(self, ledger: Ledger, gpu: str, meter: Meter | None, margin_mb: int) -> None:
        self._ledger = ledger
        self._gpu = gpu
        self._meter = meter
        self._margin_mb = margin_mb
        self._due_at_s = 0.0

    async def refresh(self) -> None:
        """Measure, if the last time is a third of a time to live ago."""
        if now_s() >= self._due_at_s:
            await self.measure()

    async def measure(self) -> None:
        """Measure, if there is a meter.

        Raises:
            LedgerUnavailable: it could not be told.
        """
        began_at_s = now_s()
        if self._meter is None:
            return
        try:
            await self._ledger.measure(self._gpu, self._meter, self._margin_mb)
        except TimeoutError:  # its thread cannot be stopped; start no more of them
            _LOG.warning("gpu %s is measured no more: the driver hangs", self._gpu)
            self._meter = None
        self._due_at_s = began_at_s + self._ledger.options.ttl_s / 3
