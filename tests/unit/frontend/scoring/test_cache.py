"""The score cache."""

from __future__ import annotations

from frontend.scoring.cache import Key, ScoreCache


def _key(image: str = "i", prompt: str = "p", weights: str = "w", preprocessing: str = "x") -> Key:
    return Key(image, prompt, weights, preprocessing)


def test_a_score_depends_on_all_four() -> None:
    """Another image, prompt, weights or preprocessing is another score."""
    cache = ScoreCache(10)
    cache.put(_key(), 0.5)
    assert cache.get(_key()) == 0.5
    for other in (_key(image="o"), _key(prompt="o"), _key(weights="o"), _key(preprocessing="o")):
        assert cache.get(other) is None


def test_the_one_unused_longest_makes_room() -> None:
    """At its limit the cache drops what was asked for longest ago."""
    cache = ScoreCache(2)
    cache.put(_key("a"), 1.0)
    cache.put(_key("b"), 2.0)
    cache.get(_key("a"))
    cache.put(_key("c"), 3.0)
    assert [cache.get(_key(image)) for image in "abc"] == [1.0, None, 3.0]


def test_no_entries_no_cache() -> None:
    """With 0 entries nothing is remembered."""
    cache = ScoreCache(0)
    cache.put(_key(), 0.5)
    assert cache.get(_key()) is None
