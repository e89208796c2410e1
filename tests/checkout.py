"""This checkout, as another machine gets it."""

from __future__ import annotations

import subprocess

from tests.repository import CHECKOUT


def pack_checkout(*which: str) -> bytes:
    """Pack the files that `git ls-files` names, with these options, as they are now."""
    names = subprocess.run(
        ["git", "ls-files", "-z", *which], cwd=CHECKOUT, capture_output=True, check=True
    ).stdout
    return subprocess.run(
        ["tar", "--null", "--files-from=-", "--create"],
        cwd=CHECKOUT,
        input=names,
        capture_output=True,
        check=True,
    ).stdout


def find_links() -> str:
    """Return where this machine's pip is told to look for wheels, or nothing."""
    return subprocess.run(
        ["python3", "-m", "pip", "config", "get", ":env:.find-links"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
