"""Why a shared GPU does not have the model.

GpuError
├── GpuUnavailable      no memory was granted, or nothing loaded, within the wait
├── LedgerUnavailable   whoever gives the memory out cannot be reached
└── LedgerRefuses       it answers, and will not grant this claim however long one waits
"""

from __future__ import annotations

from typing import Final

from frontend.errors import ServiceError

RETRY_AFTER_S: Final = 5.0


class GpuError(ServiceError):
    """Root of the tree."""


class GpuUnavailable(GpuError):
    """No memory was granted, or the model was not loaded, within the wait."""

    def __init__(self, detail: str, *, internal: str | None = None) -> None:
        super().__init__(detail, internal=internal, retry_after_s=RETRY_AFTER_S)


class LedgerUnavailable(GpuError):
    """Whoever gives the memory out cannot be reached."""


class LedgerRefuses(GpuError):
    """The ledger will not grant this claim however long one waits."""
