"""The demonstration model as it is shipped: a published version that lies in the repository."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from export.publish import Recipe, write_version
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from demo.evaluate import Rewards
    from reward.runtimes import Runtime

NAME: Final = "demonstration model (not ImageReward)"
"""In the manifest, and so in every response."""


def publish(checkpoint: Path, directory: Path, *, show_progress: bool = True) -> None:
    """Export a checkpoint, compare it with torch and put it in the place of what lies in `directory`.

    Raises:
        CheckpointError: the file is no checkpoint of this network.
        ParityError: the graph differs from torch; what was there stays.
    """
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        draft = Path(temporary) / directory.name
        draft.mkdir()
        write_version(draft, Recipe(checkpoint, NAME), show_progress=show_progress)
        if directory.exists():
            shutil.rmtree(directory)
        draft.rename(directory)


def rewards_of(scorer: Runtime) -> Rewards:
    """Score through a published version, one batch for all the pictures of a call."""

    def score(pictures: list[NDArray[np.uint8]], prompts: list[str]) -> NDArray[np.float32]:
        tokens = tokenise(prompts)
        pixels = np.stack(pictures).transpose(0, 3, 1, 2)
        return scorer.score(pixels, tokens.input_ids, tokens.attention_mask)[:, 0]

    return score
