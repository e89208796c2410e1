"""Whether to ask again, and when."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Retries:
    """How often one call asks, and how long it waits in between.

    A wait is half of `first_wait_s * 2**n` and a random part of the other half, so that clients
    that failed together do not come back together. `Retry-After` is added to it. A wait that would
    outlast the call's `timeout_s` is not begun: the error is raised at once.
    """

    max_attempts: int = 4
    """1: never ask again."""
    first_wait_s: float = 0.25
    max_wait_s: float = 8.0
    """Without what Retry-After asks for."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.first_wait_s < 0 or self.max_wait_s < 0:
            raise ValueError("max_attempts must be at least 1, waits at least 0")

    def wait_s(self, attempt: int, retry_after_s: float | None, random: float) -> float:
        """Say how long to wait after attempt number `attempt`, from 1; `random` is in [0, 1)."""
        backoff_s: float = min(self.max_wait_s, self.first_wait_s * 2 ** (attempt - 1))
        return (retry_after_s or 0.0) + backoff_s * (1 + random) / 2


def parse_retry_after(value: str | None) -> float | None:
    """Read the header, seconds or a date; what is neither counts as absent."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
