"""Ratios with their spread, and the page that they are written into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report import markdown, put
from bench.spread import interleaved, quarters, ratio

if TYPE_CHECKING:
    from pathlib import Path


def test_works_take_turns_and_the_first_round_only_warms_up() -> None:
    """Each round runs every work once, in the other order than the round before."""
    order: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = interleaved(works, rounds=2)
    assert "".join(order) == "baabba"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_taken_within_each_round() -> None:
    """A round in which the machine was slow for both changes no ratio."""
    assert ratio([1, 10, 2], [2, 20, 4]) == "2.00 (2.00 to 2.00)"
    assert ratio([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]) == "3.00 (2.00 to 4.00)"
    assert quarters([7.0]) == (7.0, 7.0, 7.0)


def test_a_table_is_put_where_the_page_has_a_place_for_it(tmp_path: Path) -> None:
    """What stood between the marks is replaced, and a page without marks is left alone."""
    text = markdown("rows", {"1": {"x": (1.0, 2.0, 3.0)}, "8": {"x": (5.0, 5.0, 5.0), "y": (1e3, 1e3, 1e3)}})
    assert text.splitlines() == [
        "| rows | x | y |",
        "|---|---|---|",
        "| 1 | 2 (1 to 3) |  |",
        "| 8 | 5 | 1000 |",
    ]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: a -->\nold\n<!-- end: a -->\nafter\n")
    assert put(page, "a", "new")
    assert page.read_text() == "before\n<!-- bench: a -->\nnew\n<!-- end: a -->\nafter\n"
    assert not put(page, "b", "new")
