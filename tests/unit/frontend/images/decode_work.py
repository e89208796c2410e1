"""A decode worker for tests that does what the bytes of the "image" say."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from frontend.images.decode_child import decode_image
from reward.contract import PIXELS
from reward.decoding import serve
from reward.preprocess import PreparedImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from reward.decoding import DecodeLimits


def play(kind: bytes, data: bytes, limits: DecodeLimits) -> PreparedImage:
    """Do what the first word of `data` says; decode `data` if the word is none of ours."""
    word, _, argument = data.partition(b" ")
    action = _ACTIONS.get(word)
    if action is None:
        return decode_image(kind, data, limits)
    text = action(argument)
    return PreparedImage(bytearray(math.prod(PIXELS.shape)), 1, 1, str(text), "")


def _die(argument: bytes) -> None:
    os.kill(os.getpid(), int(argument))


def _die_once(argument: bytes) -> str:
    mark = Path(os.fsdecode(argument))
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second life"


def _defect(_: bytes) -> None:
    raise KeyError("a defect of ours")


_ACTIONS: Final[dict[bytes, Callable[[bytes], object]]] = {
    b"spin": lambda _: sum(range(10**15)),  # in C, without the interpreter looking up
    b"nap": lambda seconds: time.sleep(float(seconds)),
    b"die": _die,
    b"die-once": _die_once,
    b"stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    b"exit": lambda code: os._exit(int(code)),
    b"eat": lambda size: len(bytearray(int(size))),
    b"defect": _defect,
    b"pid": lambda _: os.getpid(),
    b"modules": lambda _: ",".join({name.partition(".")[0] for name in sys.modules}),
}

if __name__ == "__main__":
    serve(play)
