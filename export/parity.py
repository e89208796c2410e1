"""Does the exported graph compute what the checkpoint computes? Compared on images and prompts made here.

The batches cover one image and several, the shortest prompt and the longest, padding beside its
absence; one pair stands in every batch, so that a score that depends on its batch mates is seen
too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from export.errors import ParityError
from reward.contract import IMAGE_SIZE
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reward.network import RewardNetwork
    from reward.runtimes import Runtime

TOLERANCE: Final = 1e-4
"""Largest difference of a reward between the graph and torch, both fp32."""

_PROMPTS: Final = (
    "a painting of an ocean with clouds and birds, day time, low depth field effect",
    "",
    "cat",
    "two small red circles above a large blue square, oil on canvas, " * 3,
    "日本の庭園 🌸 — déjà vu [SEP]",
)


@dataclass(frozen=True)
class Parity:
    """What was compared and how far apart the two were."""

    pairs: int
    max_difference: float
    """Graph and torch, over all pairs."""
    max_batch_difference: float
    """One pair in different batches, by the graph."""
    score_range: float
    """Highest less lowest score: a network that answers alike to everything proves little."""


def compare(
    network: RewardNetwork,
    runtime: Runtime,
    *,
    tolerance: float = TOLERANCE,
    progress: Callable[[], object] = lambda: None,
) -> Parity:
    """Compare the graph with torch; `progress` is called after each of `BATCHES` batches.

    Raises:
        ParityError: they differ by more than `tolerance`, or a score is not finite.
    """
    images = _images()
    tokens = tokenise(_PROMPTS)
    differences, scores, first = [], [], []
    for batch in BATCHES:
        prompts, pictures = [prompt for prompt, _ in batch], [picture for _, picture in batch]
        ids, mask = tokens.input_ids[prompts], tokens.attention_mask[prompts]
        graph = runtime.score(images[pictures], ids, mask)
        reference = network(torch.from_numpy(images[pictures]), torch.from_numpy(ids), torch.from_numpy(mask))
        differences.append(np.abs(graph - reference.numpy()).max())
        scores.extend(graph.ravel().tolist())
        first.append(float(graph[0, 0]))
        progress()
    parity = Parity(
        pairs=len(scores),
        max_difference=float(max(differences)),
        max_batch_difference=max(first) - min(first),
        score_range=max(scores) - min(scores),
    )
    if not np.isfinite(scores).all() or not parity.max_difference <= tolerance:
        raise ParityError(
            f"the graph differs from the checkpoint by {parity.max_difference:.2g} "
            f"(at most {tolerance:.2g} is allowed); nothing was published"
        )
    if not parity.max_batch_difference <= tolerance:
        raise ParityError(
            f"a score moves by {parity.max_batch_difference:.2g} with its batch mates "
            f"(at most {tolerance:.2g} is allowed); nothing was published"
        )
    return parity


# (prompt, image) pairs; the first is the same everywhere.
BATCHES: Final = (((0, 0),), ((0, 0), (1, 1)), ((0, 0), (2, 2), (3, 3), (4, 0), (1, 2)))


def _images() -> NDArray[np.uint8]:
    """Draw noise, a gradient, stripes and a flat grey: (4, 3, 224, 224)."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, IMAGE_SIZE, dtype=np.uint8)
    noise = random.integers(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    gradient = np.stack(
        [np.tile(ramp, (IMAGE_SIZE, 1)), np.tile(ramp[:, None], (1, IMAGE_SIZE)), noise[0] // 8]
    )
    stripes = np.where(np.arange(IMAGE_SIZE) // 16 % 2, noise, 255 - gradient)
    grey = np.full_like(noise, 128)
    return np.stack([noise, gradient, stripes.astype(np.uint8), grey])
