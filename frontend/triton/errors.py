"""How a call to Triton fails.

TritonError
├── Unavailable      passes by itself; if repeated, it opens the circuit
│   ├── Unreachable  nobody listens, or no answer comes
│   └── NotReady     the model is on its way out, or its process died
│       └── NotLoaded  Triton does not have it; says nothing against Triton
├── QueueFull        Triton holds as many requests as it may
├── TimedOut         the request's deadline passed there or on the way
└── Rejected         Triton says it was asked wrongly, or its answer is unusable: our defect
    └── TooManyRows  one request has more rows than one execution takes there
"""

from __future__ import annotations

from frontend.errors import ServiceError


class TritonError(ServiceError):
    """Root of the tree."""


class Unavailable(TritonError):
    """No score can be had at the moment."""

    retry_after_s = 2.0


class Unreachable(Unavailable):
    """Triton does not run, or does not answer."""


class NotReady(Unavailable):
    """Triton answers, and the model does not."""


class NotLoaded(NotReady):
    """Triton answers, and does not have the model."""


class QueueFull(TritonError):
    """Triton's queue is full."""

    retry_after_s = 2.0


class TimedOut(TritonError):
    """The deadline passed in Triton's queue or on the way."""


class Rejected(TritonError):
    """The request or its answer is not what was agreed on."""


class TooManyRows(Rejected):
    """The request must be sent in parts."""

    def __init__(self, detail: str, *, max_rows: int, internal: str = "") -> None:
        super().__init__(detail, internal=internal)
        self.max_rows = max_rows
