"""A senseless claim or configuration is refused before Redis hears of it."""

from __future__ import annotations

from typing import Any

import pytest

from model_boss import Capacity, Claim, InvalidClaim, LedgerOptions, Priority

GOOD: dict[str, Any] = {
    "gpu": "GPU-0",
    "lease_id": "a",
    "owner": "o",
    "model": "m",
    "vram_mb": 1,
    "priority": 0,
}


@pytest.mark.parametrize(
    "wrong",
    [{"lease_id": ""}, {"owner": ""}, {"vram_mb": 0}, {"vram_mb": -1}, {"priority": -1}, {"priority": 1001}],
)
def test_a_claim_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    """Sizes must be positive, priorities from 0 to 1000, and ids and owners not empty."""
    Claim(**GOOD)
    with pytest.raises(InvalidClaim):
        Claim(**{**GOOD, **wrong})


@pytest.mark.parametrize(("total_mb", "margin_mb"), [(0, 0), (-1, 0), (10, -1), (10, 11)])
def test_a_capacity_without_sense_is_refused(total_mb: int, margin_mb: int) -> None:
    """The margin must be a part of the total."""
    Capacity(10, 10)
    with pytest.raises(InvalidClaim):
        Capacity(total_mb, margin_mb)


@pytest.mark.parametrize("wrong", [{"ttl_s": 0}, {"ttl_s": 3601}, {"ttl_s": float("nan")}, {"timeout_s": 0}])
def test_a_ledger_without_time_is_refused(wrong: dict[str, Any]) -> None:
    """Deadlines and times to live must be positive, finite numbers."""
    with pytest.raises(InvalidClaim):
        LedgerOptions(**wrong)


def test_priorities_have_names() -> None:
    """The names are `urgent` > `high` > `normal` > `low` > `batch`.

    Any number from 0 to 1000 may be used as well.
    """
    named = [Priority.parse(name) for name in ("urgent", "high", "Normal", "low", "batch")]
    assert named == sorted(named, reverse=True) == [900, 700, 500, 300, 100]
    assert Claim("GPU-0", "a", "o", "m", 1).priority == Priority.NORMAL
    assert [Priority.parse(text) for text in ("0", "1000")] == [0, 1000]


@pytest.mark.parametrize("text", ["", "1001", "-1", "1.5", "soon", "\u0661", "99999"])
def test_a_priority_that_is_neither_is_refused(text: str) -> None:
    """The error lists the names."""
    with pytest.raises(InvalidClaim, match="urgent, high, normal, low, batch, or 0 to 1000"):
        Priority.parse(text)
