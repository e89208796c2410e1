"""Triton's two doors: files, which it decodes, or pixels, which this machine decodes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np

from imajin_aesthetic_client.errors import AestheticError, Internal, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Tensor: TypeAlias = "tuple[str, str, NDArray[Any]]"
"""Name, Triton's name of the type, and values."""

ENSEMBLE: Final = "image_reward"
NETWORK: Final = "image_reward_network"


class Door(Protocol):
    """What goes into a request."""

    model: str

    def prepare(self, files: list[bytes]) -> list[Any | AestheticError]:
        """Make of each file what is sent, or say why it cannot be."""

    def tensors(self, prepared: list[Any], prompts: Sequence[str]) -> list[Tensor]:
        """Put rows together."""

    def close(self) -> None:
        """End what was started."""


class FileDoor:
    """Files go as they are."""

    model = ENSEMBLE

    def prepare(self, files: list[bytes]) -> list[bytes | AestheticError]:
        """Return the files."""
        return list(files)

    def tensors(self, prepared: list[bytes], prompts: Sequence[str]) -> list[Tensor]:
        """Return IMAGE and PROMPT."""
        texts = [prompt.encode(errors="surrogatepass") for prompt in prompts]  # Triton refuses those rows
        return [
            (name, "BYTES", np.array(values, dtype=object).reshape(-1, 1))
            for name, values in (("IMAGE", prepared), ("PROMPT", texts))
        ]

    def close(self) -> None:
        """Do nothing."""


class PixelDoor:
    """Files are decoded in processes of this machine, by the very code that Triton runs.

    That code is the library `reward` of the package `imajin-aesthetic`.
    """

    model = NETWORK

    def __init__(self, processes: int) -> None:
        import reward  # noqa: F401, PLC0415 - not one of this package's dependencies; fails here, not later

        # Forking a process that has threads and gRPC's connections is not safe.
        context = multiprocessing.get_context("spawn")
        self._processes = ProcessPoolExecutor(processes, mp_context=context)

    def prepare(self, files: list[bytes]) -> list[NDArray[np.uint8] | AestheticError]:
        """Return each file's pixels, (3, 224, 224)."""
        try:
            return [
                InvalidRequest(found) if isinstance(found, str) else found
                for found in self._processes.map(_pixels, files)
            ]
        except BrokenExecutor:
            return [Internal("a decoding process died")] * len(files)

    def tensors(self, prepared: list[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Tensor]:
        """Return PIXELS, INPUT_IDS and ATTENTION_MASK."""
        from reward import InvalidPrompt, tokenise  # noqa: PLC0415 - as above

        try:
            tokens = tokenise(prompts)
        except InvalidPrompt as error:
            raise InvalidRequest(str(error)) from error
        return [
            ("PIXELS", "UINT8", np.stack(prepared)),
            ("INPUT_IDS", "INT64", tokens.input_ids),
            ("ATTENTION_MASK", "INT64", tokens.attention_mask),
        ]

    def close(self) -> None:
        """End the processes."""
        self._processes.shutdown()


def _pixels(file: bytes) -> NDArray[np.uint8] | str:
    from reward import InvalidImage, prepare  # noqa: PLC0415 - in a process of its own

    try:
        return prepare(file).pixels
    except InvalidImage as error:
        return str(error)
