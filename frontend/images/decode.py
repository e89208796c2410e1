"""Untrusted bytes of an image, or their base64 -> pixels, in worker processes that may die."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

# Imported here, they are registered in every worker, and Pillow need not import all its plugins to find them.
from PIL import AvifImagePlugin, WebPImagePlugin  # noqa: F401

import reward.errors
from frontend.images.base64_text import Base64Text, decode_base64
from frontend.images.errors import ImageTooLarge, ImageUndecodable
from frontend.images.workers import TaskTookTooLong, WorkerLost, WorkerPool
from reward.decoding import confine
from reward.preprocess import PreparedImage, prepare


@dataclass(frozen=True)
class DecodeLimits:
    """How many workers there are, and what one image may cost."""

    workers: int = 2
    max_bytes: int = 20 * 2**20  # of base64, when decoded
    max_pixels: int = 50_000_000  # of all frames together
    task_timeout_s: float = 10.0
    memory_bytes: int = 1536 * 2**20  # beyond what an idle worker has mapped


Work = Callable[[bytes, DecodeLimits], PreparedImage]


def decode_image(source: bytes | Base64Text, limits: DecodeLimits) -> PreparedImage:
    """Decode in the calling process; this is what a worker runs.

    Raises:
        reward.errors.InvalidImage: too large, damaged, or not of a known format.
        ImageUndecodable, ImageTooLarge: it is no base64, or too much of it.
        MemoryError: it takes more than the process may have.
    """
    data = source if isinstance(source, bytes) else decode_base64(source, limits.max_bytes)
    return prepare(data, max_pixels=limits.max_pixels)


class DecodePool(WorkerPool):
    """The decode workers; they do other work, too (`run`), that must not hold up the event loop."""

    def __init__(
        self,
        limits: DecodeLimits | None = None,
        *,
        work: Work = decode_image,
        on_worker_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits or DecodeLimits()
        self._work = work
        super().__init__(
            self._limits.workers,
            task_timeout_s=self._limits.task_timeout_s,
            initialise=(_confine, (self._limits,)),
            preload=[__name__],
            on_worker_lost=on_worker_lost,
        )

    async def decode(self, source: bytes | Base64Text, *, timeout_s: float) -> PreparedImage:
        """Decode one image within `timeout_s`, the wait for a worker included.

        Raises:
            ImageTooLarge: more bytes, pixels by the header, or memory than allowed.
            ImageUndecodable: damaged, not of a known format, or its decoder hung or crashed.
            DeadlineExceeded: `timeout_s` passed.
        """
        try:
            return await self.run(self._work, source, self._limits, timeout_s=timeout_s)
        except reward.errors.ImageTooLarge as error:
            raise ImageTooLarge(str(error)) from error
        except MemoryError as error:
            raise ImageTooLarge("decoding the image takes more memory than is allowed") from error
        except reward.errors.InvalidImage as error:
            raise ImageUndecodable(str(error)) from error
        except TaskTookTooLong as error:
            raise ImageUndecodable(f"decoding the image took {error}") from error
        except WorkerLost as error:
            raise ImageUndecodable("the decoder failed on the image", internal=str(error)) from error


def _confine(limits: DecodeLimits) -> None:
    """Bound what this worker may do, as it starts."""
    # Pebble's handler would wait for a decoder that hangs in C; the default kills at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    confine(max_pixels=limits.max_pixels, memory_bytes=limits.memory_bytes)
