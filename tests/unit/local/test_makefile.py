"""What make says before it does anything."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path


def _make(directory: Path, *arguments: str) -> tuple[int, str]:
    shutil.copy(CHECKOUT / "Makefile", directory)
    command = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_tritons_own_door_is_opened_by_name_alone(tmp_path: Path) -> None:
    """HOST is for REST; only TRITON_HOST opens Triton's own API."""
    (tmp_path / ".venv").mkdir()
    for name in (".serve", ".export", ".dev"):
        (tmp_path / ".venv" / name).touch()
    for name in ("pyproject.toml", "constraints.txt", "local/install.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    _, shown = _make(tmp_path, "-n", "--old-file=.venv/.serve", "up", "HOST=0.0.0.0")
    assert "--host 0.0.0.0 --triton-host 127.0.0.1 " in shown
    _, shown = _make(tmp_path, "-n", "--old-file=.venv/.serve", "up", "TRITON_HOST=0.0.0.0")
    assert "--host 127.0.0.1 --triton-host 0.0.0.0 " in shown
