"""Which candidates stand where on the contact sheet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from PIL import Image

from demo.examples import INDEX_NAME
from demo.sheet import ROW, WIDTH, Candidate, rank, save
from reward import runtimes
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = CHECKOUT / "examples"


def test_candidates_stand_in_the_ranked_order(tmp_path: Path) -> None:
    """From left to right stand all the candidates of a prompt, at even distances, and the next prompt's below."""
    greys = [20 * n for n in range(1, 11)]
    candidates = []
    for grey in greys:
        Image.new("L", (224, 224), grey).save(tmp_path / f"{grey}.png")
        candidates.append(Candidate(tmp_path / f"{grey}.png", -grey, None))
    save({"one": candidates, "another": candidates[::-1]}, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (sheet.format, sheet.width) == ("PNG", WIDTH)
        pixels = sheet.convert("L")
    for row, expected in enumerate((greys, greys[::-1])):
        seen = [pixels.getpixel((40 + 88 + place * 193, 40 + 60 + 88 + row * ROW)) for place in range(10)]
        assert seen == expected


def test_candidates_are_ranked_by_their_scores(published_repository: Path) -> None:
    """Every candidate of every example is there once, the best first, with what the index says of it."""
    ranked = rank(runtimes.load(published_repository / "image_reward_network" / "1", threads=1), EXAMPLES)
    index = json.loads((EXAMPLES / INDEX_NAME).read_text())
    assert list(ranked) == [entry["prompt"] for entry in index]
    for row, entry in zip(ranked.values(), index, strict=True):
        scores = [candidate.score for candidate in row]
        assert scores == sorted(scores, reverse=True)
        departs = {candidate.file.name: candidate.departs for candidate in row}
        assert departs == {candidate["file"]: candidate["departs"] for candidate in entry["candidates"]}
        assert len(row) == len(departs)
