"""Everything the REST door answers other than 200; each class is one error code of the interface.

ServiceError
├── InvalidRequest        422 invalid_request
├── PayloadTooLarge       413 payload_too_large
├── ImageTooLarge         413 image_too_large
├── ImageUndecodable      422 image_undecodable
├── ImageUrlForbidden     422 image_url_forbidden
├── ImageUnreachable      422 image_unreachable
├── Unauthorized          401 unauthorized
├── NotFound              404 not_found
├── MethodNotAllowed      405 method_not_allowed
├── Overloaded            429 overloaded          + Retry-After
├── GpuUnavailable        503 gpu_unavailable     + Retry-After
├── ModelUnavailable      503 model_unavailable   + Retry-After
├── DeadlineExceeded      504 deadline_exceeded
└── Internal              500 internal

`detail` is for the caller; `internal` is for the log and leaves the process in no other way. `routes`
raises these, `app` translates them once into application/problem+json (RFC 9457).
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """Root of the tree."""

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(
        self, detail: str, *, internal: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.internal = internal
        self.retry_after_s = retry_after_s


class InvalidRequest(ServiceError):
    """The request does not keep the schema."""

    code, status, title = "invalid_request", 422, "The request is not valid"


class PayloadTooLarge(ServiceError):
    """The body, a file or decoded base64 is above its limit."""

    code, status, title = "payload_too_large", 413, "The payload is too large"


class ImageTooLarge(ServiceError):
    """The image has more pixels or bytes than allowed."""

    code, status, title = "image_too_large", 413, "The image is too large"


class ImageUndecodable(ServiceError):
    """The bytes are corrupt, truncated, no image, or of a format that is not allowed."""

    code, status, title = "image_undecodable", 422, "The image cannot be decoded"


class ImageUrlForbidden(ServiceError):
    """The URL's scheme, port, host or address is not allowed."""

    code, status, title = "image_url_forbidden", 422, "The image URL is not allowed"


class ImageUnreachable(ServiceError):
    """The URL could not be fetched."""

    code, status, title = "image_unreachable", 422, "The image cannot be fetched"


class Unauthorized(ServiceError):
    """API keys are configured and none valid was sent."""

    code, status, title = "unauthorized", 401, "A valid API key is needed"


class NotFound(ServiceError):
    """No such path."""

    code, status, title = "not_found", 404, "There is nothing here"


class MethodNotAllowed(ServiceError):
    """The path exists, but not for this method."""

    code, status, title = "method_not_allowed", 405, "The method is not allowed here"


class Overloaded(ServiceError):
    """The admission queue or Triton's queue is full."""

    code, status, title = "overloaded", 429, "The service is overloaded"


class GpuUnavailable(ServiceError):
    """No GPU lease was granted within the wait."""

    code, status, title = "gpu_unavailable", 503, "No GPU memory is available"


class ModelUnavailable(ServiceError):
    """Triton is down, or the model is not ready."""

    code, status, title = "model_unavailable", 503, "The model is not available"


class ModelNotLoaded(ModelUnavailable):
    """Triton answers, and does not have the model."""


class DeadlineExceeded(ServiceError):
    """The request's deadline passed."""

    code, status, title = "deadline_exceeded", 504, "The deadline passed"


class Internal(ServiceError):
    """A defect of ours."""

    code, status, title = "internal", 500, "The service failed"
