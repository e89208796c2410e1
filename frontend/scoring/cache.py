"""Scores already given, by everything they depend on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from reward.manifest import Manifest

ENTRY_BYTES: Final = 512
"""What one entry takes, rounded up: a digest, a number, their places in three tables (425 measured)."""


def score_key(image_sha256: str, input_ids: NDArray[np.int64], manifest: Manifest) -> bytes:
    """Digest what a score depends on; prompts with the same tokens have the same score."""
    parts = (image_sha256, manifest.checkpoint_sha256, manifest.preprocessing, manifest.precision)
    return hashlib.sha256("\n".join(parts).encode() + input_ids.tobytes()).digest()


class ScoreCache:
    """The scores used last, in at most `max_bytes` of memory; 0 turns it off."""

    def __init__(self, max_bytes: int) -> None:
        self._max_entries = max_bytes // ENTRY_BYTES
        self._scores: LRUCache[bytes, float] = LRUCache(max(1, self._max_entries))

    def get(self, key: bytes) -> float | None:
        """Return a score, and count it as used."""
        return self._scores.get(key)

    def put(self, key: bytes, score: float) -> None:
        """Remember a score; the one unused longest makes room."""
        if self._max_entries:
            self._scores[key] = score
