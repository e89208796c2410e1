"""Scores that were given already, stored by everything they depend on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

if TYPE_CHECKING:
    from frontend.triton.served import ServedVersion
    from reward import PreparedImage
    from reward.tokenizer import Tokens

ENTRY_BYTES: Final = 512
"""What one entry takes, rounded up: a digest, a number and their places in three tables (measured:
425).
"""


@dataclass(frozen=True, eq=False)
class Question:
    """One image and its prompt; prompts with the same tokens are the same prompt."""

    image: PreparedImage
    tokens: Tokens

    @cached_property
    def digest(self) -> bytes:
        """Digest image and prompt, with the same result in every process."""
        return hashlib.sha256(self.image.sha256.encode() + self.tokens.input_ids.tobytes()).digest()

    def key(self, version: ServedVersion) -> bytes:
        """Digest what the score by a version depends on."""
        return hashlib.sha256(self.digest + version.identity.encode()).digest()


class ScoreCache:
    """The most recently used scores, in at most `max_bytes` of memory; 0 turns it off."""

    def __init__(self, max_bytes: int) -> None:
        self._max_entries = max_bytes // ENTRY_BYTES
        self._scores: LRUCache[bytes, float] = LRUCache(max(1, self._max_entries))

    @property
    def is_on(self) -> bool:
        """Tell whether anything is remembered."""
        return self._max_entries > 0

    def get(self, key: bytes) -> float | None:
        """Return a score, and count it as used."""
        return self._scores.get(key)

    def put(self, key: bytes, score: float) -> None:
        """Store a score; the one that was not used for the longest time makes room."""
        if self.is_on:
            self._scores[key] = score
