"""How a call to Triton fails.

TritonError
├── Unavailable      passes by itself; repeated, it opens the circuit
│   ├── Unreachable  nobody listens, or no answer comes
│   └── NotReady     the model is on its way out, or its process died
│       └── NotLoaded  Triton does not have it; says nothing against Triton
├── QueueFull        Triton holds as many requests as it may
├── TimedOut         the request's deadline passed there or on the way
└── Rejected         Triton says that it was asked wrongly, or gave no usable answer: a defect of ours
"""

from __future__ import annotations

from typing import Final

from frontend.errors import ServiceError

RETRY_AFTER_S: Final = 2.0


class TritonError(ServiceError):
    """Root of the tree."""


class Unavailable(TritonError):
    """No score can be had at the moment."""

    def __init__(
        self, detail: str, *, internal: str | None = None, retry_after_s: float | None = RETRY_AFTER_S
    ) -> None:
        super().__init__(detail, internal=internal, retry_after_s=retry_after_s)


class Unreachable(Unavailable):
    """Triton does not run, or does not answer."""


class NotReady(Unavailable):
    """Triton answers, and the model does not."""


class NotLoaded(NotReady):
    """Triton answers, and does not have the model."""


class QueueFull(TritonError):
    """Triton's queue is full."""


class TimedOut(TritonError):
    """The deadline passed in Triton's queue or on the way."""


class Rejected(TritonError):
    """The request or its answer is not what was agreed on."""
