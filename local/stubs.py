"""Triton's Python processes that died: Triton 2.51 neither ends nor starts them again.

It runs each Python model in a process of its own, the stub. When one is dead it says that it is ready, and
fails every request. The dead stub stays as a zombie child of Triton's, and is found by that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

# The stub, of whose name the kernel keeps 15 characters, or the shell that could not start it.
_NAMES: Final = ("triton_python_backend_stub"[:15], "bash")


class DeadStubs:
    """Found by two looks: Triton itself buries the stubs that it ends, only those that stay count."""

    def __init__(self) -> None:
        self._suspects: frozenset[int] = frozenset()

    def are_there(self, triton: int | None) -> bool:
        """Tell whether a stub of this Triton is dead that was dead at the last look."""
        dead = frozenset() if triton is None else dead_stubs(triton)
        staying, self._suspects = self._suspects & dead, dead
        return bool(staying)


def dead_stubs(parent: int) -> frozenset[int]:
    """Find the children of a Triton server that died and were not waited for."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
        except OSError:
            continue  # it ended meanwhile
        state, owner = rest.split()[:2]
        if state == "Z" and int(owner) == parent and head.partition("(")[2] in _NAMES:
            found.add(int(entry.name))
    return frozenset(found)
