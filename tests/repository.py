"""A model repository of a test's own: copied from the checkout, without published versions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[1]


def copy_repository(target: Path) -> Path:
    """Copy the three model directories; versions that somebody published in the checkout stay there."""
    shutil.copytree(
        CHECKOUT / "model_repository",
        target,
        ignore=lambda directory, names: (
            [name for name in names if name.isdecimal() or name == "promotions.json"]
            if Path(directory).name == "image_reward_network"
            else []
        ),
    )
    return target
