"""The score cache."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from frontend.scoring.cache import ENTRY_BYTES, Question, ScoreCache
from frontend.triton.served import Role, ServedVersion
from reward import PreparedImage, manifest
from reward.contract import NETWORK
from reward.tokenizer import tokenise
from tests.unit.frontend.triton.stand_in import publish_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from reward.manifest import Manifest


def test_what_a_score_depends_on(tmp_path: Path) -> None:
    """A score depends on image, tokens, weights, preprocessing, precision, runtime and files.

    If one of them is different, the cached score is not used.
    """
    content = manifest.read(publish_manifest(tmp_path) / NETWORK.name / "3")
    cat, dog, same_cat = (_question("image", prompt) for prompt in ("a cat", "a dog", "A  CÄT"))
    key = cat.key(_version(content))
    changes: list[dict[str, Any]] = [
        {"checkpoint_sha256": "1" * 64},
        {"preprocessing": "another"},
        {"precision": "int8"},
        {"runtime": "another"},
        {"files": {"network.onnx": "2" * 64}},
    ]
    others = [cat.key(_version(replace(content, **change))) for change in changes]
    others += [_question("another", "a cat").key(_version(content)), dog.key(_version(content))]
    assert len({key, *others}) == 8
    assert same_cat.key(_version(content)) == key  # reads the same: the same score
    promoted = replace(_version(content), version="9", role=Role.CANARY)
    assert cat.key(promoted) == key  # the same files under another number: the same score


def _question(sha256: str, prompt: str) -> Question:
    return Question(PreparedImage(bytearray(), 1, 1, "PNG", sha256), tokenise([prompt]))


def _version(content: Manifest) -> ServedVersion:
    return ServedVersion("3", Role.STABLE, 1.0, content)


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
