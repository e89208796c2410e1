"""What the command line names as images: files, folders, addresses, `-`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imajin_aesthetic_client.images import is_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif"})
"""By which a folder's images are known; a file that is named itself may have any."""


class InputMissing(Exception):
    """There is no such file, or no image in a folder."""


@dataclass(frozen=True)
class Input:
    """One image, and what it is called in tables and reports."""

    name: str
    image: str | bytes | Path


def read_inputs(arguments: Iterable[str]) -> list[Input]:
    """Find the images that arguments name, in their order; folders with sub-folders, by name.

    Raises:
        InputMissing: one of them names none.
    """
    return [found for argument in arguments for found in _find(argument)]


def _find(argument: str) -> Iterator[Input]:
    if argument == "-":
        yield Input("standard input", sys.stdin.buffer.read())
    elif is_address(argument):
        yield Input(argument if len(argument) <= 200 else argument[:199] + "…", argument)
    elif Path(argument).is_dir():
        files = sorted(path for path in Path(argument).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not files:
            raise InputMissing(f"there is no image in the folder {argument}")
        yield from (Input(str(path), path) for path in files)
    elif Path(argument).is_file():
        yield Input(argument, Path(argument))
    else:
        raise InputMissing(f"there is no file {argument}")
