"""Versions with a flaw.

Each is a copy of another version. Its manifest fits it, or deliberately does not.
"""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING, Any, Final

from reward import manifest
from reward.files import sha256

if TYPE_CHECKING:
    from export.registry import Registry

RAISES: Final = """
raise RuntimeError("this version does not even load")
"""

SCORES_NAN: Final = """
import numpy as np
from reward.triton import NetworkModel

class Unable:
    def __init__(self, runtime):
        self.manifest = runtime.manifest

    def score(self, pixels, ids, mask):
        return np.full((len(pixels), 1), np.nan, np.float32)

class TritonPythonModel(NetworkModel):
    def initialize(self, args):
        super().initialize(args)
        self._runtime = Unable(self._runtime)
"""

DIES: Final = """
import os
os._exit(9)
"""

RAISES_IN_TRITON_ALONE: Final = """
import triton_python_backend_utils as pb_utils
from reward.triton import NetworkModel as TritonPythonModel

if hasattr(pb_utils, "__file__"):
    raise RuntimeError("not in this Triton")
"""

LOADS_SLOWLY: Final = """
import time
from pathlib import Path
import triton_python_backend_utils as pb_utils
from reward.triton import NetworkModel as TritonPythonModel

while hasattr(pb_utils, "__file__") and not Path("GO").exists():
    time.sleep(0.05)
"""

FAILS_AFTER_A_WHILE: Final = """
from reward.triton import NetworkModel

class TritonPythonModel(NetworkModel):
    asked = 0

    def execute(self, requests):
        self.asked += len(requests)
        if self.asked > 3:
            self._runtime = None
        return super().execute(requests)
"""

SCORES_OTHERWISE_IN_TRITON: Final = """
import triton_python_backend_utils as pb_utils
from reward.triton import NetworkModel

class Shifted:
    def __init__(self, runtime):
        self._runtime = runtime
        self.manifest = runtime.manifest

    def score(self, pixels, ids, mask):
        return self._runtime.score(pixels, ids, mask) + 1

class TritonPythonModel(NetworkModel):
    def initialize(self, args):
        super().initialize(args)
        if hasattr(pb_utils, "__file__"):
            self._runtime = Shifted(self._runtime)
"""


def publish_copy(registry: Registry, number: int, *, model: str | None = None, **changes: Any) -> int:
    """Publish a version again and return its number.

    The copy may have another `model.py`, or other words in its manifest.
    """
    with registry.publishing() as draft:
        original = registry.directory(number)
        shutil.copytree(
            original, draft.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        content = dataclasses.replace(manifest.read(original), **changes)
        if model is not None:
            (draft.directory / "model.py").write_text(model)
            digest = sha256(draft.directory / "model.py")
            content = dataclasses.replace(content, files={**content.files, "model.py": digest})
        manifest.write(content, draft.directory)
    return draft.number
