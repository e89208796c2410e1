"""The one time limit of a request, used for fetching, decoding, queueing and Triton."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from frontend.errors import DeadlineExceeded


@dataclass(frozen=True)
class Deadline:
    """A moment of the monotonic clock."""

    at_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """Set a deadline `timeout_s` from now."""
        return cls(time.monotonic() + timeout_s)

    def remaining_s(self) -> float:
        """Return the time left.

        Raises:
            DeadlineExceeded: none is left.
        """
        remaining_s = self.at_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceeded("the request's deadline passed")
        return remaining_s

    def timeout(self) -> asyncio.Timeout:
        """Bound a block of code; if it outlasts the deadline it ends with a TimeoutError.

        Raises:
            DeadlineExceeded: it has passed already.
        """
        return asyncio.timeout(self.remaining_s())
