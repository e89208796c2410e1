"""How a call fails: one tree, with a class for each `code`, and three of the client's own.

AestheticError
├── InvalidRequest        invalid_request      the request does not match the schema
├── UnknownVersion        unknown_version      `model_version` is not served
├── PayloadTooLarge       payload_too_large    the whole request is too large
├── ImageError
│   ├── ImageTooLarge     image_too_large      more pixels or bytes than allowed
│   ├── ImageUndecodable  image_undecodable    damaged, no image, or of another format
│   ├── ImageUrlForbidden image_url_forbidden  the service may not fetch this address
│   └── ImageUnreachable  image_unreachable    the address gave no image
├── Unauthorized          unauthorized         a valid API key is needed
├── NotFound              not_found            the service has no such path
├── MethodNotAllowed      method_not_allowed
├── Unavailable
│   ├── Overloaded        overloaded           too many requests at once
│   ├── GpuUnavailable    gpu_unavailable      other services hold the GPU's memory
│   └── ModelUnavailable  model_unavailable    the model does not run
├── DeadlineExceeded      deadline_exceeded    `timeout_s` passed, here or in the service
├── Internal              internal             a defect of the service
├── UnexpectedAnswer      unexpected_answer    somebody else answered: a proxy, another service
└── ConnectionFailed      connection_failed    nobody answered
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imajin_aesthetic_client.answers import FailedCandidate

RETRYABLE_STATUSES: Final = frozenset({429, 502, 503, 504})


class AestheticError(Exception):
    """Root of the tree, and the class of a code that this client does not know.

    Attributes:
        code: what went wrong, for programs; by default the class's own.
        detail: what went wrong, for people.
        status: the HTTP status; None where there was no answer.
        retryable: whether the same request may succeed later.
        retry_after_s: when to come back at the earliest, where the service said so.
        request_id: what the service's log calls the request.
        failed: the candidates of a batch of which none could be scored.
    """

    code = "unexpected_answer"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        failed: Sequence[FailedCandidate] = (),
    ) -> None:
        super().__init__(detail)
        self.code = code or type(self).code
        self.detail = detail
        self.status = status
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.failed = tuple(failed)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class InvalidRequest(AestheticError):
    """The request does not keep the schema."""

    code = "invalid_request"


class UnknownVersion(AestheticError):
    """`model_version` names a version that is not served."""

    code = "unknown_version"


class PayloadTooLarge(AestheticError):
    """The whole request is too large."""

    code = "payload_too_large"


class ImageError(AestheticError):
    """An image could not be had."""


class ImageTooLarge(ImageError):
    """The image has more pixels or bytes than the service allows."""

    code = "image_too_large"


class ImageUndecodable(ImageError):
    """The bytes are damaged, no image, or of a format that the service does not read."""

    code = "image_undecodable"


class ImageUrlForbidden(ImageError):
    """The service may not fetch this address."""

    code = "image_url_forbidden"


class ImageUnreachable(ImageError):
    """The address gave the service no image."""

    code = "image_unreachable"


class Unauthorized(AestheticError):
    """The service wants an API key, and got no valid one."""

    code = "unauthorized"


class NotFound(AestheticError):
    """The service has no such path."""

    code = "not_found"


class MethodNotAllowed(AestheticError):
    """The path does not answer this method."""

    code = "method_not_allowed"


class Unavailable(AestheticError):
    """No score can be had at the moment."""


class Overloaded(Unavailable):
    """The service has too many requests at once."""

    code = "overloaded"


class GpuUnavailable(Unavailable):
    """Other services hold the GPU's memory."""

    code = "gpu_unavailable"


class ModelUnavailable(Unavailable):
    """The model does not run."""

    code = "model_unavailable"


class DeadlineExceeded(AestheticError):
    """`timeout_s` passed, here or in the service."""

    code = "deadline_exceeded"


class Internal(AestheticError):
    """The service has a defect; its log has the `request_id`."""

    code = "internal"


class UnexpectedAnswer(AestheticError):
    """The answer is none of this service's: a proxy's page, or another service."""

    code = "unexpected_answer"


class ConnectionFailed(AestheticError):
    """Nobody answered."""

    code = "connection_failed"


def _classes(root: type[AestheticError]) -> Iterator[type[AestheticError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _classes(kind)


CODES: Final = {kind.code: kind for kind in _classes(AestheticError) if "code" in vars(kind)}
"""The class of each code; a newer service's code, unknown here, has none."""
