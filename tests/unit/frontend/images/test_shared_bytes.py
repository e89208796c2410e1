"""Bytes that another process reads where they are."""

from __future__ import annotations

import gc
import os
import pickle
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from frontend.images import shared_bytes
from frontend.images.shared_bytes import Piece, SharedBytes


@given(st.lists(st.binary(max_size=9)), st.binary(min_size=1, max_size=2), st.integers(0, 20))
def test_they_are_as_a_bytearray_is(parts: list[bytes], wanted: bytes, position: int) -> None:
    """What was added in parts is found and read as one, at every place and past the end."""
    shared, plain = SharedBytes(), bytearray()
    for part in parts:
        shared.extend(part)
        plain.extend(part)
    assert len(shared) == len(plain)
    assert shared.find(wanted, position) == plain.find(wanted, position)
    assert shared.read(position, position + 5) == plain[position : position + 5]
    assert shared.read(5, 3) == b""


def test_what_stands_across_two_slices_is_found() -> None:
    """The search goes slice by slice, and misses nothing in between."""
    before = shared_bytes._SLICE_BYTES - 2
    assert SharedBytes(b"x" * before + b"wanted").find(b"wanted", 0) == before


def test_a_piece_is_sent_as_a_path() -> None:
    """However long it is, a piece costs some hundred bytes to send, and reads the same where it arrives."""
    piece = Piece(SharedBytes(b"x" * 10**6 + b"end"), 10**6 - 1, 10**6 + 2)
    sent = pickle.dumps(piece)
    assert len(sent) < 500
    assert pickle.loads(sent).read() == piece.read() == b"xen"


def test_they_are_given_back_when_nobody_holds_them() -> None:
    """The descriptor is closed soon after the last reference is gone."""
    shared = SharedBytes(b"x")
    path = Path(shared)
    found = os.stat(path).st_ino  # noqa: PTH116 - the link's target, as long as there is one
    del shared
    gc.collect()
    while path.exists() and path.stat().st_ino == found:
        time.sleep(0.01)
