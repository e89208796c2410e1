"""Image files and a prompt -> rewards, through a published version, as the service scores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from export.errors import UnusableImage
from reward.contract import MAX_BATCH
from reward.errors import InvalidImage
from reward.preprocess import prepare
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reward.runtimes import Runtime


def score(runtime: Runtime, prompt: str, images: Sequence[Path]) -> list[float]:
    """Score images against one prompt, in their order.

    Raises:
        InvalidPrompt: too long, or no valid Unicode.
        UnusableImage: one is missing or damaged.
    """
    tokens = tokenise([prompt])
    rewards: list[float] = []
    for start in range(0, len(images), MAX_BATCH):
        pixels = np.stack([_pixels(path) for path in images[start : start + MAX_BATCH]])
        ids = np.repeat(tokens.input_ids, len(pixels), axis=0)
        mask = np.repeat(tokens.attention_mask, len(pixels), axis=0)
        rewards.extend(runtime.score(pixels, ids, mask).ravel().tolist())
    return rewards


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        return prepare(path.read_bytes()).pixels
    except OSError as error:
        raise UnusableImage(f"{path}: cannot be read: {error.strerror}") from error
    except InvalidImage as error:
        raise UnusableImage(f"{path}: {error}") from error
