"""Decode untrusted images in a child process, which may die of one without harm to the parent.

If a decoder crashes or hangs, the child is ended, and the next image gets a new one. The two talk
through a socket in lengths, JSON and raw bytes, but never in pickles. So whoever takes over a
decoder has the child and no more.

    parent: kind (1 byte), length (8 bytes), image
    child:  length (8 bytes), JSON, and the pixels if all went well
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from PIL import AvifImagePlugin, Image, ImageFile

from reward.contract import PIXELS
from reward.errors import ImageTooLarge, InvalidImage, RewardError, UndecodableImage
from reward.preprocess import MAX_PIXELS, PreparedImage, prepare

MAX_BYTES: Final = 20 * 2**20
"""Largest encoded image."""

IMAGE: Final = b"i"
"""The kind of content that is a plain image; other children may know other kinds."""

_HEADER: Final = struct.Struct("!cQ")
_LENGTH: Final = struct.Struct("!Q")
_MAX_REPLY_BYTES: Final = 4096
_START_S: Final = 60.0
_GRACE_S: Final = 2.0

# The shares of the time limit that may be spent as processor time: on the header, and beyond that
# on the largest picture allowed. On an ordinary machine the slowest encodings take half of it
# (docs/decisions/decode-limits.md).
_HEADER_SHARE: Final = 0.1
_PIXELS_SHARE: Final = 0.5

_FAILURES: Final = {error.__name__: error for error in (ImageTooLarge, UndecodableImage)}

# glibc gives large blocks back to the system at once. Asking for them again takes 1 ms of the 6 ms
# that an image takes.
_ENVIRONMENT: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "OPENBLAS_NUM_THREADS": "1",
}

# A child that one of these signals ended died of the image. One that ended otherwise was killed.
_CRASHES: Final = frozenset(
    -number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)


@dataclass(frozen=True)
class DecodeLimits:
    """What one image may cost."""

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS  # of all frames together
    timeout_s: float = 10.0
    memory_bytes: int = 1536 * 2**20  # beyond what an idle child has mapped


class FilePart(Protocol):
    """A part of a file that the kernel sends without a copy in this process."""

    @property
    def start(self) -> int: ...

    def __len__(self) -> int: ...

    def fileno(self) -> int: ...


class DecodeWorker:
    """One child that decodes one image at a time; a lost child is replaced."""

    def __init__(
        self,
        limits: DecodeLimits | None = None,
        *,
        on_lost: Callable[[], None] = lambda: None,
        module: str = "reward.decoding",
    ) -> None:
        """Start nothing yet; the child runs `module`, which calls `serve`."""
        self._limits = limits or DecodeLimits()
        self._on_lost = on_lost
        self._module = module
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._in_use = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Start the child unless it runs already, and wait until it can work.

        Raises:
            RewardError: it does not start, or this worker has been closed.
        """
        with self._in_use:
            self._start()

    def decode(
        self, content: bytes | bytearray | FilePart, *, kind: bytes = IMAGE, timeout_s: float | None = None
    ) -> PreparedImage:
        """Decode one image, within `timeout_s` if that is less than the limits' own.

        Raises:
            ImageTooLarge: more bytes or pixels than allowed, or decoding needs too much memory.
            UndecodableImage: no image, damaged, not of `preprocess.FORMATS`, or its decoder hung or
                crashed.
            RewardError: a defect of ours, with the child's traceback on its standard error; or this
                worker has been closed.
        """
        if kind == IMAGE and len(content) > self._limits.max_bytes:
            raise ImageTooLarge(f"the image has more than the {self._limits.max_bytes} bytes allowed")
        limit_s = self._limits.timeout_s if timeout_s is None else min(self._limits.timeout_s, timeout_s)
        until = time.monotonic() + limit_s
        with self._in_use:
            for last in (False, True):
                try:
                    self._start()
                    return self._ask(kind, content, until)
                except TimeoutError:
                    self._lose()
                    raise UndecodableImage(f"decoding the image took longer than {limit_s:g} s") from None
                except OSError as error:
                    status = self._lose()
                    if status == -signal.SIGPROF:
                        raise UndecodableImage(
                            "decoding the image takes more processor time than is allowed for its size"
                        ) from error
                    # A child that was killed from outside says nothing about the image, so it is
                    # tried once more.
                    if status in _CRASHES or last:
                        raise UndecodableImage("the decoder failed on the image") from error
        raise AssertionError  # the last round returns or raises

    def close(self) -> None:
        """End the child for good; an image in work in another thread fails with a RewardError."""
        self._closed = True
        if (child := self._child) is not None:
            child.kill()
        with self._in_use:
            self._end()

    def _start(self) -> None:
        if self._child is not None and self._child.poll() is None:
            return
        for last in (False, True):
            self._end()
            try:
                self._start_child()
            except OSError as error:
                # One that was killed from outside says nothing about the next.
                was_killed = self._status() == -signal.SIGKILL
                self._end()
                if last or self._closed or not was_killed:
                    raise RewardError("the process that decodes images does not start") from error
            else:
                return

    def _start_child(self) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable or "python3", "-m", self._module, str(theirs.fileno())]
        with theirs:
            self._child = subprocess.Popen(  # noqa: S603 - our own module
                [*command, json.dumps(asdict(self._limits))],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": _search_path()},
            )
        if self._closed:
            raise ConnectionError("the worker has been closed")
        self._receive(1, time.monotonic() + _START_S)

    def _status(self) -> int | None:
        """Return how the child ended, if it ended by itself."""
        if self._child is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=0.1)  # one that is dying may say of what
        return self._child.returncode

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _ask(self, kind: bytes, content: bytes | bytearray | FilePart, until: float) -> PreparedImage:
        assert self._socket is not None
        self._socket.settimeout(max(until - time.monotonic(), 0.001))  # 0 would mean not to wait at all
        self._socket.sendall(_HEADER.pack(kind, len(content)))
        if isinstance(content, bytes | bytearray):
            self._socket.sendall(content)
        elif len(content):  # 0 would mean the whole file
            self._socket.sendfile(content, content.start, len(content))  # type: ignore[arg-type]
        try:
            (length,) = _LENGTH.unpack(self._receive(_LENGTH.size, until))
            reply: dict[str, Any] = json.loads(self._receive(min(length, _MAX_REPLY_BYTES), until))
            if "error" in reply:
                raise _FAILURES.get(reply["error"], RewardError)(str(reply["message"]))
            planes = self._receive(_PLANES_BYTES, until)
            width, height = int(reply["width"]), int(reply["height"])
            return PreparedImage(planes, width, height, str(reply["format"]), str(reply["sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConnectionError("the child does not keep to its part") from error

    def _receive(self, length: int, until: float) -> bytearray:
        assert self._socket is not None
        received = bytearray(length)
        view = memoryview(received)
        while view:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionError("the child is gone")
            view = view[count:]
        return received

    def _lose(self) -> int | None:
        """End a child that failed; return its exit status."""
        child = self._child
        self._status()
        self._end()
        self._on_lost()
        return child.returncode if child is not None else None


_PLANES_BYTES: Final = math.prod(PIXELS.shape)


def _search_path() -> str:
    """Name the places where the child finds what this process has found.

    This package comes first, because of editable installs. `sys.path` alone is not enough: in
    Triton's stub it lacks the places that PYTHONPATH names.
    """
    places = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""), *sys.path]
    return os.pathsep.join(filter(None, places))


Work = Callable[[bytes, bytes, DecodeLimits], PreparedImage]
"""What a child does: kind, content and limits -> the decoded image."""


def serve(work: Work) -> None:
    """Do the child's part until the parent is gone."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    limits = DecodeLimits(**json.loads(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C means the parent, which ends this
    _confine(limits)
    with connection, connection.makefile("rwb") as stream:
        stream.write(b"\n")
        stream.flush()
        while header := stream.read(_HEADER.size):
            kind, length = _HEADER.unpack(header)
            content = stream.read(length)
            # If the parent is gone, nobody ends a decoder that hangs in C. SIGALRM's default action
            # does.
            signal.setitimer(signal.ITIMER_REAL, limits.timeout_s + _GRACE_S)
            _allow_processor_time(limits.timeout_s * _HEADER_SHARE)
            stream.write(_reply(work, kind, content, limits))
            stream.flush()
            signal.setitimer(signal.ITIMER_REAL, 0)
            _allow_processor_time(0)


def decode(data: bytes, limits: DecodeLimits) -> PreparedImage:
    """Decode in the child, in the time that an image of this size may take.

    Raises:
        InvalidImage: too large, damaged, or not of `preprocess.FORMATS`.
    """

    def on_size(pixels: int) -> None:
        share = _HEADER_SHARE + _PIXELS_SHARE * pixels / limits.max_pixels
        _allow_processor_time(limits.timeout_s * share)

    return prepare(data, max_pixels=limits.max_pixels, on_size=on_size)


def _allow_processor_time(seconds: float) -> None:
    """End this process by SIGPROF once it has used this much from now on; 0 means no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _confine(limits: DecodeLimits) -> None:
    """Bound what this process may use from now on, memory beyond what it has mapped already."""
    # A core dump would leave somebody's image on the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(FileNotFoundError):  # only Linux tells, and only Linux keeps RLIMIT_AS
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        bound = pages * resource.getpagesize() + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the children are the parallelism


def _reply(work: Work, kind: bytes, content: bytes, limits: DecodeLimits) -> bytes:
    planes = bytearray()
    reply: dict[str, object]
    try:
        image = work(kind, content, limits)
        reply = {name: getattr(image, name) for name in ("width", "height", "format", "sha256")}
        planes = image.planes
    except InvalidImage as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        message = "decoding the image takes more memory than is allowed"
        reply = {"error": ImageTooLarge.__name__, "message": message}
    except Exception:  # noqa: BLE001 - the outermost frame of the child
        traceback.print_exc()
        reply = {"error": RewardError.__name__, "message": "decoding failed by a defect; see the log"}
    text = json.dumps(reply).encode()
    return _LENGTH.pack(len(text)) + text + planes


if __name__ == "__main__":
    serve(lambda _, data, limits: decode(data, limits))
