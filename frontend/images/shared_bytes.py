"""Bytes that the kernel hands to a worker process: a file in memory, without a name.

Copying 13 MB between objects holds the interpreter for ten milliseconds, in whatever thread. Here
only the kernel copies, and the interpreter is free meanwhile. Of a few hundred kilobytes a copy is
nothing, and less than a file costs; so they become a file only when there are more of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue
from threading import Thread
from typing import Final
from weakref import finalize

_MAX_SHORT_BYTES: Final = 2**19
_SLICE_BYTES: Final = 2**18


class SharedBytes:
    """Bytes that grow as a bytearray does."""

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self._short = bytearray()
        self._fd: int | None = None
        self._length = 0
        self.extend(content)

    def __len__(self) -> int:
        return self._length

    @property
    def is_short(self) -> bool:
        """Tell whether the bytes are in this process's memory, and no file."""
        return self._fd is None

    def fileno(self) -> int:
        """Return the file's descriptor.

        Raises:
            ValueError: they are short, and no file.
        """
        if self._fd is None:
            raise ValueError("bytes so few are no file")
        return self._fd

    def extend(self, content: bytes | bytearray) -> None:
        self._length += len(content)
        if self._fd is not None:
            _write(self._fd, content)
            return
        self._short += content
        if self._length > _MAX_SHORT_BYTES:
            self._fd = os.memfd_create("body", os.MFD_CLOEXEC)
            finalize(self, _closing().put, self._fd)
            _write(self._fd, self._short)
            self._short = bytearray()

    def read(self, start: int, end: int) -> bytes:
        if self._fd is None:
            return bytes(memoryview(self._short)[start:end])
        return os.pread(self._fd, max(0, end - start), start)

    def find(self, wanted: bytes, position: int) -> int:
        """Return where `wanted` begins, at or after `position`; return -1 if it does not."""
        if self._fd is None:
            return self._short.find(wanted, position)
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
        """Return the descriptor of the whole, as `SharedBytes` does."""
        return self.whole.fileno()

    def sendable(self) -> bytes | Piece:
        """Return what a `DecodeWorker` takes: the bytes, or this part of the file."""
        return self.whole.read(self.start, self.end) if self.whole.is_short else self


def _write(fd: int, content: bytes | bytearray) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


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
