"""The official weights: their name, their place and their digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Weights:
    """One file of a repository on the Hugging Face hub."""

    name: str
    """The name that every response shows."""
    repository: str
    file_name: str
    sha256: str


OFFICIAL: Final = Weights(
    name="ImageReward-v1.0",
    repository="THUDM/ImageReward",
    file_name="ImageReward.pt",  # 1.79 GB
    sha256="d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",
)
