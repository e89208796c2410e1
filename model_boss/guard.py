"""The child's side of `model_boss run`: tie this process to its keeper's life, then become the command.

Run as a file, not as a module, so that a command starts without waiting for the imports of the package.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main(keeper: int, command: list[str]) -> None:
    """Become `command`; the kernel kills it when the keeper dies, since nobody renews its lease then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:  # it died before the kernel was told
        os._exit(128 + signal.SIGKILL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the user's own command
    except FileNotFoundError:
        print(f"model_boss: {command[0]}: not found", file=sys.stderr)  # noqa: T201
        os._exit(127)
    except OSError as error:
        print(f"model_boss: {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        os._exit(126)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
