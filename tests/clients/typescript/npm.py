"""Run npm, or Node, in the workspace of the TypeScript packages."""

from __future__ import annotations

import os
import subprocess
from typing import Final

from tests.repository import CHECKOUT

WORKSPACE: Final = CHECKOUT / "clients/typescript"


def run(*arguments: str, **environment: str) -> None:
    """Run it; what it says is in the failure."""
    done = subprocess.run(
        [str(WORKSPACE / "npm.sh"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
