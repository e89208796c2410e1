"""What the person at the terminal is told. Where nothing can be written, nothing ends for it."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import Final

_PATIENCE_S: Final = 1.0
"""For a reader who stands still; then the line is lost."""


def say(text: str) -> None:
    """Write a line to standard output."""
    _write(1, text)


def complain(text: str) -> None:
    """Write a line to standard error."""
    _write(2, text)


def have_all_descriptors() -> None:
    """Open to nowhere what this process was started without; another file would get its place."""
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(lowest, True)
    os.close(lowest)


def _write(descriptor: int, text: str) -> None:
    # Not by Python's own streams: they keep what could not be written, and fail with it again.
    with suppress(OSError):  # a closed pipe, a full disk: the next line is tried again
        if select.select([], [descriptor], [], _PATIENCE_S)[1]:
            os.write(descriptor, f"{text}\n".encode(errors="replace"))
