"""What is wrong with a request, found before it is worked on.

HttpError
├── InvalidRequest     it does not match the schema
│   └── AllFailed      no candidate of a batch could be scored
├── PayloadTooLarge    its body is above its limit
├── Unauthorized       API keys are configured and no valid one was sent
├── NotFound
└── MethodNotAllowed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from frontend.errors import ServiceError

if TYPE_CHECKING:
    from frontend.http.schemas import FailedCandidate


class HttpError(ServiceError):
    """Root of the tree."""


class InvalidRequest(HttpError):
    """The request does not match the schema."""


class AllFailed(InvalidRequest):
    """Every candidate of a batch failed; the list of them goes with the error."""

    def __init__(self, detail: str, failed: list[FailedCandidate]) -> None:
        super().__init__(detail)
        self.failed = failed


class PayloadTooLarge(HttpError):
    """The body has more bytes than allowed."""


class Unauthorized(HttpError):
    """API keys are configured and no valid one was sent."""


class NotFound(HttpError):
    """No such path."""


class MethodNotAllowed(HttpError):
    """The path exists, but not for this method."""
