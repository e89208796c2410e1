"""Bytes that the kernel hands to another process."""

from __future__ import annotations

import gc
import os
import socket
import time
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.images import shared_bytes
from frontend.images.shared_bytes import Piece, SharedBytes


@pytest.mark.parametrize("max_short_bytes", [0, 10, 2**20])
@given(st.lists(st.binary(max_size=9)), st.binary(min_size=1, max_size=2), st.integers(0, 20))
def test_they_are_as_a_bytearray_is(
    max_short_bytes: int, parts: list[bytes], wanted: bytes, position: int
) -> None:
    """Bytes added in parts are found and read as one whole, at every place and past the end."""
    with mock.patch.object(shared_bytes, "_MAX_SHORT_BYTES", max_short_bytes):
        shared, plain = SharedBytes(), bytearray()
        for part in parts:
            shared.extend(part)
            plain.extend(part)
    assert shared.is_short == (len(plain) <= max_short_bytes)
    assert len(shared) == len(plain)
    assert shared.find(wanted, position) == plain.find(wanted, position)
    assert shared.read(position, position + 5) == plain[position : position + 5]
    assert shared.read(5, 3) == b""


def test_what_stands_across_two_slices_is_found() -> None:
    """The search goes slice by slice, and finds what lies across the border of two slices."""
    before = 3 * shared_bytes._SLICE_BYTES - 2
    assert SharedBytes(b"x" * before + b"wanted").find(b"wanted", 0) == before


def test_a_piece_is_sent_by_the_kernel() -> None:
    """A socket gets exactly the bytes between the piece's start and end."""
    piece = Piece(SharedBytes(b"x" * 10**6 + b"end"), 10**6 - 1, 10**6 + 2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendfile(piece, piece.start, len(piece))  # type: ignore[arg-type]
        assert theirs.recv(100) == b"xen"


def test_what_is_short_is_no_file() -> None:
    """Few bytes are sent as they are: a file costs more than a copy of them."""
    shared = SharedBytes(b"the end")
    assert Piece(shared, 4, 7).sendable() == b"end"
    with pytest.raises(ValueError, match="no file"):
        shared.fileno()
    shared.extend(bytes(10**6))
    assert Piece(shared, 4, 7).sendable() == Piece(shared, 4, 7)
    assert shared.read(4, 8) == b"end\0"


def test_they_are_given_back_when_nobody_holds_them() -> None:
    """The descriptor is closed soon after the last reference is gone."""
    shared = SharedBytes(bytes(10**6))
    path = Path(f"/proc/self/fd/{shared.fileno()}")
    found = os.stat(path).st_ino  # noqa: PTH116 - the link's target, as long as there is one
    del shared
    gc.collect()
    while path.exists() and path.stat().st_ino == found:
        time.sleep(0.01)
