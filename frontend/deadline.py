"""The one time limit of a request, carried through fetch, decode, queue and Triton."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from frontend.errors import DeadlineExceeded, InvalidRequest

HEADER: Final = "X-Request-Timeout-Ms"


@dataclass(frozen=True)
class Deadline:
    """A moment of the monotonic clock."""

    at_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """Set a deadline `timeout_s` from now."""
        return cls(time.monotonic() + timeout_s)

    @classmethod
    def of_header(cls, value: str | None, *, default_s: float, max_s: float) -> Deadline:
        """Read X-Request-Timeout-Ms, bounded by the server's own limit.

        Raises:
            InvalidRequest: not a positive whole number of milliseconds.
        """
        if value is None:
            return cls.after(default_s)
        if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value)):
            raise InvalidRequest(f"{HEADER} must be a positive whole number of milliseconds")
        return cls.after(min(int(value) / 1000, max_s))

    def remaining_s(self) -> float:
        """Return the time left.

        Raises:
            DeadlineExceeded: none is left.
        """
        remaining_s = self.at_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceeded("the request's deadline passed")
        return remaining_s
