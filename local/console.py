"""What the person at the terminal is told; a message that cannot be written ends nothing."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import Final

_PATIENCE_S: Final = 1.0
"""How long a reader may stand still; after that the line is lost."""


def say(text: str) -> None:
    """Write a line to standard output."""
    _write(1, text)


def complain(text: str) -> None:
    """Write a line to standard error."""
    _write(2, text)


def have_all_descriptors() -> None:
    """Open to nowhere the standard streams that this process lacks; files would get their place."""
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(lowest, True)
    os.close(lowest)


def _write(descriptor: int, text: str) -> None:
    # Python's own streams are not used: they keep what could not be written, and fail with it
    # again.
    with suppress(OSError):  # a closed pipe, a full disk: the next line is tried again
        if select.select([], [descriptor], [], _PATIENCE_S)[1]:
            os.write(descriptor, f"{text}\n".encode(errors="replace"))
