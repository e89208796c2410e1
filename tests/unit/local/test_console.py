"""A message that cannot be written ends nothing."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local import console

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """An end to read from, and an end to write to."""
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            assert end == reader  # closed by the test


def test_a_reader_who_is_gone(pipe: tuple[int, int]) -> None:
    """Writing to a closed pipe is no error."""
    reader, writer = pipe
    os.close(reader)
    console._write(writer, "told")


def test_a_reader_who_stands_still(pipe: tuple[int, int]) -> None:
    """A line that nobody reads is lost after a moment, and the next line is tried again."""
    reader, writer = pipe
    while select.select([], [writer], [], 0)[1]:
        os.write(writer, b"." * 4096)
    console._write(writer, "lost")
    os.read(reader, 4096)
    console._write(writer, "told")
    left = os.read(reader, 2**20)
    assert left.endswith(b"told\n")
    assert b"lost" not in left


@pytest.mark.parametrize("tell", ["say", "complain"])
def test_a_full_disk(tell: str) -> None:
    """With a full disk the program goes on, and its exit status is its own."""
    program = f"from local.console import {tell}; {tell}('told')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=full, check=False)
    assert done.returncode == 0
