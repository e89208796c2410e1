"""Scores already given, by everything they depend on."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple


class Key(NamedTuple):
    """What a score depends on."""

    image_sha256: str
    prompt: str
    weights_sha256: str
    preprocessing: str


class ScoreCache:
    """The scores used last, at most `entries` of them."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._scores: OrderedDict[Key, float] = OrderedDict()

    def get(self, key: Key) -> float | None:
        """Return a score, and count it as used."""
        if key not in self._scores:
            return None
        self._scores.move_to_end(key)
        return self._scores[key]

    def put(self, key: Key, score: float) -> None:
        """Remember a score; the one unused longest makes room."""
        if not self._entries:
            return
        self._scores[key] = score
        self._scores.move_to_end(key)
        if len(self._scores) > self._entries:
            self._scores.popitem(last=False)
