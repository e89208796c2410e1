"""ImageReward as a library: bytes and prompts in, rewards out.

Read `contract` first, then `preprocess`, `tokenizer`, `network` and `runtimes`, in the order in
which a request passes through them. Importing `reward` imports neither torch nor onnxruntime, and
NumPy only with the first name that needs it.

It turns off the telemetry of onnxruntime. Since 1.29 onnxruntime tells its makers what it loads,
and writes into the home directory. It reads this switch from the environment when it is imported.
"""

import importlib
import os
import typing

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

if typing.TYPE_CHECKING:
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

_HOMES = {
    "Manifest": "reward.manifest",
    "PreparedImage": "reward.preprocess",
    "Runtime": "reward.runtimes",
    "Tokens": "reward.tokenizer",
    "load": "reward.runtimes",
    "prepare": "reward.preprocess",
    "tokenise": "reward.tokenizer",
}

if not typing.TYPE_CHECKING:  # a checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for (PEP 562).

        Every process of the service imports this package, and one that decodes images starts in
        half the time without NumPy.
        """
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(_HOMES[name]), name)
        return value
