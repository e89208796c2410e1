"""The score cache."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

from frontend.scoring.cache import ENTRY_BYTES, ScoreCache, score_key
from reward import manifest
from reward.contract import NETWORK
from reward.tokenizer import tokenise
from tests.unit.frontend.triton.stand_in import publish_manifest

if TYPE_CHECKING:
    from pathlib import Path


def test_what_a_score_depends_on(tmp_path: Path) -> None:
    """A score depends on image, tokens, weights, preprocessing and precision.

    If one of them is different, the cached score is not used.
    """
    content = manifest.read(publish_manifest(tmp_path) / NETWORK.name / "3")
    ids = tokenise(["a cat", "a dog", "A  CÄT"]).input_ids
    key = score_key("image", ids[0], content)
    others = [
        score_key("another", ids[0], content),
        score_key("image", ids[1], content),
        score_key("image", ids[0], replace(content, checkpoint_sha256="1" * 64)),
        score_key("image", ids[0], replace(content, preprocessing="another")),
        score_key("image", ids[0], replace(content, precision="int8")),
    ]
    assert len({key, *others}) == 6
    assert score_key("image", ids[2], content) == key  # reads the same: the same score


def test_the_one_unused_longest_makes_room() -> None:
    """At its limit the cache drops the entry that was not asked for for the longest time."""
    cache = ScoreCache(2 * ENTRY_BYTES)
    cache.put(b"a", 1.0)
    cache.put(b"b", 2.0)
    cache.get(b"a")
    cache.put(b"c", 3.0)
    assert [cache.get(key) for key in (b"a", b"b", b"c")] == [1.0, None, 3.0]


def test_no_bytes_no_cache() -> None:
    """With 0 bytes nothing is remembered."""
    cache = ScoreCache(0)
    cache.put(b"a", 0.5)
    assert cache.get(b"a") is None


def test_it_stays_below_its_bytes() -> None:
    """Filled three times over, the cache takes no more memory than it may."""
    max_bytes = 2**20
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = ScoreCache(max_bytes)
        for number in range(3 * max_bytes // ENTRY_BYTES):
            cache.put(number.to_bytes(32, "big"), float(number))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert max_bytes / 2 < taken <= max_bytes
