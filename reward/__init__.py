"""ImageReward as a library: bytes and prompts in, rewards out.

Read `contract` first, then `preprocess`, `tokenizer`, `network` and `runtimes`, in the order in
which a request passes through them. Importing `reward` imports neither torch nor onnxruntime.

It turns off the telemetry of onnxruntime. Since 1.29 onnxruntime tells its makers what it loads,
and writes into the home directory. It reads this switch from the environment when it is imported.
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
