"""The root of every error that a caller may learn of; it knows nothing about HTTP.

Each package has its own tree below this root: `images.errors`, `triton.errors`, `gpu.errors`,
`scoring.errors`, `http.errors`. All of them share one error for a passed deadline.
`frontend/http/problem.py` gives each error its status and code.
"""

from __future__ import annotations


class ServiceError(Exception):
    """`detail` is for the caller; `internal` is only for the log.

    `retry_after_s` says when it makes sense to come back; a class may have its own default.
    """

    retry_after_s: float | None = None

    def __init__(
        self, detail: str, *, internal: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.internal = internal
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class DeadlineExceeded(ServiceError):
    """The request's deadline passed."""
