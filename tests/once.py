"""What takes long to make, made once for all the processes that run tests (pytest-xdist)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def made_once(temporary: pytest.TempPathFactory, name: str, make: Callable[[Path], Path]) -> Path:
    """Return the directory that `make` filled, here or in another process; change nothing in it.

    `make` is given an empty directory, and returns what of it is to be kept.
    """
    of_all = temporary.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        of_all = of_all.parent
    template = of_all / name
    with FileLock(f"{template}.lock"):
        if not template.exists():
            make(temporary.mktemp(name)).rename(template)
    return template
