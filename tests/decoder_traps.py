"""A decoder that fails as C code fails, for images that ask for it.

Python imports `sitecustomize` when it starts. A directory with such a module, on PYTHONPATH,
reaches processes that the test does not start itself. So the product needs no hook for tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

CRASH: Final = b"trap: crash"
HANG: Final = b"trap: hang"
SPIN: Final = b"trap: spin"
HOG: Final = b"trap: hog"
DIE: Final = b"trap: die"
DEFECT: Final = b"trap: defect"

_SITE: Final = """
import os, signal, time

deadly = os.path.join(os.path.dirname(__file__), "deadly")
if os.path.exists(deadly):
    os.remove(deadly)
    os.kill(os.getpid(), signal.SIGKILL)

def trap(data):
    if data == b"trap: crash":
        os.abort()
    if data == b"trap: hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        time.sleep(1000)
    if data == b"trap: spin":
        sum(range(10**15))
    if data == b"trap: hog":
        bytearray(2**31)
    if data == b"trap: die":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"trap: defect":
        raise AssertionError("secret")

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "reward.preprocess":
            return None
        import sys, importlib.util
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            prepare = module.prepare
            def trapped(data, **options):
                trap(data)
                return prepare(data, **options)
            module.prepare = trapped
        spec.loader.exec_module = exec_module
        return spec

import sys
sys.meta_path.insert(0, Finder())
"""


def set_traps(directory: Path) -> str:
    """Write the module; return its directory, which must come first on PYTHONPATH."""
    (directory / "sitecustomize.py").write_text(_SITE)
    return str(directory)


def kill_the_next_at_its_start(directory: Path) -> None:
    """Make the next process that finds the module die before it can work."""
    (directory / "deadly").touch()
