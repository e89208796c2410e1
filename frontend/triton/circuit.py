"""A circuit breaker: what keeps failing is left alone for a while; then one request tries it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from frontend.triton.errors import NotLoaded, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_FAILURES: Final = 5  # in a row
_OPEN_S: Final = 1.0


class Circuit:
    """Count every `Unavailable` except `NotLoaded`, which only a working Triton says.

    closed --`max_failures` in a row--> open --`open_s` later--> half-open, one attempt
       ^                                 ^-----------failure---------------'      |
       '---------------------------------------------success----------------------'
    """

    def __init__(
        self,
        *,
        max_failures: int = _MAX_FAILURES,
        open_s: float = _OPEN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_failures = max_failures
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Tell whether an attempt would be refused now."""
        return self._open_until is not None and (self._trying or self._clock() < self._open_until)

    def check(self) -> None:
        """Refuse before work is done for nothing.

        Raises:
            Unavailable: the circuit is open.
        """
        if self.is_open:
            raise Unavailable(
                "the inference server failed repeatedly and is given time to come back",
                internal="the circuit is open",
                retry_after_s=self._open_s,
            )

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Run the block unless the circuit is open, and learn from how the block ends.

        Raises:
            Unavailable: the circuit is open.
        """
        self.check()
        is_half_open = self._open_until is not None
        self._trying = is_half_open
        try:
            yield
        except NotLoaded:
            self._failures = 0
            self._open_until = None
            raise
        except Unavailable:
            self._failures += 1
            if is_half_open or self._failures >= self._max_failures:
                self._open_until = self._clock() + self._open_s
            raise
        else:
            self._failures = 0
            self._open_until = None
        finally:
            if is_half_open:
                self._trying = False
