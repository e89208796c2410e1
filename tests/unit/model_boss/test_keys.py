"""The names of a GPU's keys."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from model_boss.errors import InvalidClaim
from model_boss.protocol import Keys


def test_one_gpu_is_one_hash_slot() -> None:
    """All keys of a GPU share its hash tag, so a script may touch them all in a cluster."""
    keys = Keys.of("model-boss", "GPU-8d2a")
    assert keys[1] == "model-boss:{GPU-8d2a}:leases"
    assert len({key_slot(key.encode()) for key in keys}) == 1
    assert len(set(keys)) == 5


@pytest.mark.parametrize("gpu", ["", "a b", "a{b", "a}b", "a\n"])
def test_a_gpu_name_cannot_break_the_hash_tag(gpu: str) -> None:
    """A brace in a GPU's name would end the tag early and spread the keys over several slots."""
    with pytest.raises(InvalidClaim, match="cannot name a GPU"):
        Keys.of("model-boss", gpu)


@pytest.mark.parametrize("prefix", ["", "a{b", "a*", "a b", "a[b"])
def test_a_prefix_cannot_break_the_hash_tag_or_a_pattern(prefix: str) -> None:
    """A brace in the prefix would become the tag; a star would match other keys."""
    with pytest.raises(InvalidClaim, match="cannot be a prefix"):
        Keys.of(prefix, "GPU-0")
