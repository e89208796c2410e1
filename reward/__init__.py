"""ImageReward as a library: bytes and prompts in, rewards out.

Read `contract` first, then `preprocess`, `tokenizer`, `network` and `runtimes` in the order a request
passes through them. Importing `reward` imports no torch and no onnxruntime.

It turns off the telemetry of onnxruntime, which since 1.29 sends what it loads to its makers and writes
into the home directory; it asks the environment when it is imported.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from reward.errors import (
    CheckpointError,
    ImageTooLarge,
    InvalidImage,
    InvalidInput,
    InvalidPrompt,
    InvalidTensor,
    RewardError,
    UndecodableImage,
    VersionError,
)
from reward.manifest import Manifest
from reward.preprocess import PreparedImage, prepare
from reward.runtimes import Runtime, load
from reward.tokenizer import Tokens, tokenise

__all__ = [
    "CheckpointError",
    "ImageTooLarge",
    "InvalidImage",
    "InvalidInput",
    "InvalidPrompt",
    "InvalidTensor",
    "Manifest",
    "PreparedImage",
    "RewardError",
    "Runtime",
    "Tokens",
    "UndecodableImage",
    "VersionError",
    "load",
    "prepare",
    "tokenise",
]
