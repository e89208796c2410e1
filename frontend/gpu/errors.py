"""Why a shared GPU does not have the model."""

from __future__ import annotations

from typing import Final

from frontend.errors import ServiceError

RETRY_AFTER_S: Final = 5.0


class GpuUnavailable(ServiceError):
    """No memory was granted, or the model was not loaded, within the wait."""

    def __init__(self, detail: str, *, internal: str | None = None) -> None:
        super().__init__(detail, internal=internal, retry_after_s=RETRY_AFTER_S)
