"""Prompts and images -> rewards, through a published version, as the service scores them."""

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
    """Score image files against one prompt, in their order.

    Raises:
        InvalidPrompt: too long, or no valid Unicode.
        UnusableImage: one is missing or damaged.
    """
    rewards: list[float] = []
    for start in range(0, len(images), MAX_BATCH):
        pixels = np.stack([read_pixels(path) for path in images[start : start + MAX_BATCH]])
        rewards.extend(score_pixels(runtime, [prompt] * len(pixels), pixels).tolist())
    return rewards


def score_pixels(runtime: Runtime, prompts: Sequence[str], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Score one batch, at most 64 rows: B prompts and (B, 3, 224, 224) -> (B,)."""
    tokens = tokenise(prompts)
    return runtime.score(pixels, tokens.input_ids, tokens.attention_mask)[:, 0]


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """Read and prepare one image file: (3, 224, 224).

    Raises:
        UnusableImage: it is missing or damaged.
    """
    try:
        return prepare(path.read_bytes()).pixels
    except OSError as error:
        raise UnusableImage(f"{path}: cannot be read: {error.strerror}") from error
    except InvalidImage as error:
        raise UnusableImage(f"{path}: {error}") from error
