"""A full disk, or a folder that is not ours to write, told in one line."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from export.errors import CannotWrite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN: Final = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Translate the system's refusals while something is written under a directory.

    Raises:
        CannotWrite: the disk is full, or the folder is not ours to write.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            remedy = "make room on that disk"
        elif error.errno in _FORBIDDEN:
            remedy = f"make {directory} writable for this user"
        else:
            raise
        raise CannotWrite(
            f"{error.filename or directory}: {error.strerror}; nothing has changed: "
            f"{remedy} and run the command again"
        ) from error
