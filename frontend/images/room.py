"""How many bytes of fetched images are held at once."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from frontend.images.errors import TooManyFetched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RETRY_AFTER_S = 1.0


class Buffered(Protocol):
    """The bytes that all requests hold together, in bodies and fetched images."""

    def take(self, count: int) -> None:
        """Count bytes as held, or refuse them."""

    def give_back(self, count: int) -> None:
        """Count bytes as no longer held."""


class FetchRoom:
    """The part of all bytes that fetched images may fill; slow hosts so leave room for bodies."""

    def __init__(self, buffered: Buffered, max_bytes: int) -> None:
        self._buffered = buffered
        self._max_bytes = max_bytes
        self.held_bytes = 0

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes as held until the block ends; without room it raises.

        Raises:
            TooManyFetched: fetched images fill their part.
            ServiceError: bodies fill the whole.
        """
        held_bytes = 0

        def take(count: int) -> None:
            nonlocal held_bytes
            if self.held_bytes + count > self._max_bytes:
                raise TooManyFetched("too many images are being fetched", retry_after_s=_RETRY_AFTER_S)
            self._buffered.take(count)
            self.held_bytes += count
            held_bytes += count

        try:
            yield take
        finally:
            self.held_bytes -= held_bytes
            self._buffered.give_back(held_bytes)
