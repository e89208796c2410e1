"""A model repository for one test, copied from the checkout or from another one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[1]


def copy_published(repository: Path, target: Path) -> Path:
    """Copy a repository with its versions, but not what it serves, nor who serves it."""
    return shutil.copytree(repository, target, ignore=shutil.ignore_patterns("configs"))


def copy_repository(target: Path) -> Path:
    """Copy the three model directories, but nothing that was published in the checkout."""
    shutil.copytree(
        CHECKOUT / "model_repository",
        target,
        ignore=lambda directory, names: [
            name
            for name in names
            if name == "configs" or (name.isdecimal() and Path(directory).name == "image_reward_network")
        ],
    )
    return target
