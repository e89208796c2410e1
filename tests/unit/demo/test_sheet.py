"""Which candidate stands where on the contact sheet."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

from PIL import Image

from demo.examples import INDEX_NAME
from demo.sheet import WIDTH, Candidate, Row, layout, rank, save
from reward import runtimes
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = CHECKOUT / "examples"
ROW = Row("a prompt", tuple(Candidate(EXAMPLES / f"1-{n:02}.jpg", -n, None) for n in range(1, 11)))


def test_every_candidate_has_one_tile_in_the_ranked_order() -> None:
    """The candidates of a row stand from left to right at even distances, the next row below."""
    tiles, below = layout(ROW, 0), layout(ROW, 1)
    assert [tile.candidate for tile in tiles] == list(ROW.candidates)
    assert len({right.left - left.left for left, right in pairwise(tiles)}) == 1
    assert tiles[0].left < tiles[1].left
    assert tiles[-1].left + (tiles[1].left - tiles[0].left) <= WIDTH
    assert {tile.top for tile in tiles} == {tiles[0].top}
    assert below[0].top > tiles[0].top


def test_candidates_are_ranked_by_their_scores(published_repository: Path) -> None:
    """Each example lists every candidate once, the best first.

    Each candidate has the attribute from which the index says that it departs.
    """
    rows = rank(runtimes.load(published_repository / "image_reward_network" / "1", threads=1), EXAMPLES)
    index = json.loads((EXAMPLES / INDEX_NAME).read_text())
    assert [row.prompt for row in rows] == [entry["prompt"] for entry in index]
    for row, entry in zip(rows, index, strict=True):
        scores = [candidate.score for candidate in row.candidates]
        assert scores == sorted(scores, reverse=True)
        departs = {candidate.file.name: candidate.departs for candidate in row.candidates}
        assert departs == {candidate["file"]: candidate["departs"] for candidate in entry["candidates"]}
        assert len(row.candidates) == len(departs)


def test_the_sheet_is_a_picture_of_its_width(tmp_path: Path) -> None:
    """The sheet is a PNG of a fixed width, and higher with more rows."""
    for number in (1, 2):
        save([ROW] * number, tmp_path / f"{number}.png")
    with Image.open(tmp_path / "1.png") as one, Image.open(tmp_path / "2.png") as two:
        assert one.format == "PNG"
        assert one.width == two.width == WIDTH
        assert one.height < two.height
