"""The root of every error that a caller may learn of; it knows nothing of HTTP.

Each package has a tree of its own below it: `images.errors`, `triton.errors`, `gpu.errors`,
`scoring.errors`, `http.errors`; that the deadline passed is one error for all of them.
`frontend/http/problem.py` gives each its status and code.
"""

from __future__ import annotations


class ServiceError(Exception):
    """`detail` is for the caller; `internal` is for the log alone.

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
