"""Everything that `frontend.gpu` raises on purpose.

GpuError
├── GpuUnavailable      no memory was granted, or the model was not loaded, within the wait
├── LedgerUnavailable   whoever gives the memory out cannot be reached
└── LedgerRefuses       it answers, and will not grant this claim however long one waits
"""

from __future__ import annotations


class GpuError(Exception):
    """Root of the tree."""


class GpuUnavailable(GpuError):
    """No memory was granted, or the model was not loaded, within the wait."""

    def __init__(self, detail: str, *, internal: str | None = None, retry_after_s: float = 5.0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.internal = internal
        self.retry_after_s = retry_after_s


class LedgerUnavailable(GpuError):
    """Whoever gives the memory out cannot be reached."""


class LedgerRefuses(GpuError):
    """The ledger will not grant this claim however long one waits."""
