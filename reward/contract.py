"""What the parts of the service agree on: tensors, models and constants of ImageReward-v1.0.

The library, the exported graph, the Triton configurations and the REST API must agree on these
values. So they are written here once, and tests compare each of those parts with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IMAGE_SIZE: Final = 224
"""The height and width of the network's input, in pixels."""

MAX_TOKENS: Final = 35
"""Prompt length in tokens, `[CLS]` and `[SEP]` included; longer prompts are cut."""

MIN_TOKENS: Final = 2
"""The empty prompt: `[CLS]` and `[SEP]`."""

MAX_PROMPT_CHARACTERS: Final = 10_000
"""Longer prompts are refused before they are tokenised; only 35 of their tokens would be read."""

MAX_BATCH: Final = 64
"""The largest batch of one execution, in the graph and in every `config.pbtxt`."""

# CLIP's channel statistics, with which upstream normalises (ImageReward/ImageReward.py,
# `_transform`).
PIXEL_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD: Final = (0.26862954, 0.26130258, 0.27577711)

# These standardise the head's output (ImageReward/ImageReward.py, `ImageReward.__init__`). On
# ImageReward's own test set the reward then has mean 0 and standard deviation 1.
REWARD_MEAN: Final = 0.16717362830052426
REWARD_STD: Final = 1.0333394966054072


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model's interface; the batch dimension comes before `shape`."""

    name: str
    dtype: str
    """Triton's name for the data type."""
    shape: tuple[int, ...]


IMAGE: Final = TensorSpec("IMAGE", "BYTES", (1,))
PROMPT: Final = TensorSpec("PROMPT", "BYTES", (1,))
PIXELS: Final = TensorSpec("PIXELS", "UINT8", (3, IMAGE_SIZE, IMAGE_SIZE))
INPUT_IDS: Final = TensorSpec("INPUT_IDS", "INT64", (MAX_TOKENS,))
ATTENTION_MASK: Final = TensorSpec("ATTENTION_MASK", "INT64", (MAX_TOKENS,))
REWARD: Final = TensorSpec("REWARD", "FP32", (1,))
"""NaN in a row that could not be scored."""
ERROR: Final = TensorSpec("ERROR", "BYTES", (1,))
"""Why a row could not be scored; empty where it was."""


@dataclass(frozen=True)
class ModelSpec:
    """One model directory of the repository."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


ENSEMBLE: Final = ModelSpec("image_reward", (IMAGE, PROMPT), (REWARD, ERROR))
PREPROCESS: Final = ModelSpec(
    "image_reward_preprocess", (IMAGE, PROMPT), (PIXELS, INPUT_IDS, ATTENTION_MASK, ERROR)
)
NETWORK: Final = ModelSpec("image_reward_network", (PIXELS, INPUT_IDS, ATTENTION_MASK), (REWARD,))
MODELS: Final = (ENSEMBLE, PREPROCESS, NETWORK)

PRIORITY_INTERACTIVE: Final = 1
PRIORITY_BULK: Final = 2

ADMIN_HEADER: Final = "triton-admin-key"
"""Carries the administration key over HTTP; over gRPC `triton-grpc-protocol-` stands before it."""

IN_BETWEEN: Final = "whose required version"
"""Triton 2.51 refuses to load the ensemble with this in its reason if the network that it has, or
is just loading, is of the files before or after a change, and the ensemble of the others.
"""
IN_BETWEEN_S: Final = 2.0
"""How long to try again then; writing the files takes milliseconds."""

LEASE_OWNER: Final = "imajin-aesthetic"
"""Of this service's leases of GPU memory: a lease is inherited only within one owner."""
