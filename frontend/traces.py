"""Where a request's spans go: nowhere, unless frontend/otel.py takes them.

A span is one stage of a request's way, with its beginning, its end and a few attributes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Finish = Callable[[int, "dict[str, object]"], None]
    """To be called with the status of the answer and the notes of its log line."""

_NO_SPAN: Final = nullcontext()


def _forget(status: int, notes: dict[str, object]) -> None:
    del status, notes


_NO_REQUEST: Final = nullcontext(_forget)


class Traces:
    """Takes no spans; what a request pays for that is a few calls that do nothing."""

    def request(
        self, endpoint: str, headers: Iterable[tuple[bytes, bytes]], notes: dict[str, object]
    ) -> AbstractContextManager[Finish]:
        """Follow one request, as a part of its caller's trace if `headers` name one."""
        del endpoint, headers, notes
        return _NO_REQUEST

    def span(self, name: str, **attributes: str | int) -> AbstractContextManager[None]:
        """Follow one stage of the present request."""
        del name, attributes
        return _NO_SPAN

    def headers(self) -> dict[str, str] | None:
        """Return the headers by which another server goes on with the present trace, if any."""
        return None

    def close(self) -> None:
        """Send what was not sent yet; it takes two seconds at most."""
