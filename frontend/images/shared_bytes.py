"""Bytes that the kernel hands to a worker process: a file in memory, without a name.

Copying 13 MB between objects holds the interpreter for ten milliseconds, in whatever thread. Here
only the kernel copies, and the interpreter is free meanwhile.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue
from threading import Thread
from typing import Final
from weakref import finalize

_SLICE_BYTES: Final = 2**18


class SharedBytes:
    """Bytes that grow as a bytearray does."""

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self._fd = os.memfd_create("body", os.MFD_CLOEXEC)
        finalize(self, _closing().put, self._fd)
        self._length = 0
        self.extend(content)

    def __len__(self) -> int:
        return self._length

    def fileno(self) -> int:
        return self._fd

    def extend(self, content: bytes | bytearray) -> None:
        while content:
            written = os.write(self._fd, content)
            self._length += written
            content = content[written:]

    def read(self, start: int, end: int) -> bytes:
        return os.pread(self._fd, max(0, end - start), start)

    def find(self, wanted: bytes, position: int) -> int:
        """Return where `wanted` begins, at or after `position`; return -1 if it does not."""
        for begin in range(position, len(self), _SLICE_BYTES):
            found = self.read(begin, begin + _SLICE_BYTES + len(wanted) - 1).find(wanted)
            if found >= 0:
                return begin + found
        return -1


@dataclass(frozen=True)
class Piece:
    """A part of shared bytes."""

    whole: SharedBytes
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def fileno(self) -> int:
        return self.whole.fileno()


@cache
def _closing() -> SimpleQueue[int]:
    """Return the queue of a thread that closes descriptors.

    Giving 65 MB back to the system takes 8 ms. The garbage collector may call `put` of this queue
    at any moment, where `submit` of an executor would lock up.
    """
    queue: SimpleQueue[int] = SimpleQueue()

    def close_all() -> None:
        while True:
            os.close(queue.get())

    Thread(target=close_all, name="closing", daemon=True).start()
    return queue
