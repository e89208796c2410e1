"""The examples, ranked by the demonstration model, on one contact sheet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

from demo.examples import INDEX_NAME
from export.scoring import score

if TYPE_CHECKING:
    from pathlib import Path

    from reward.runtimes import Runtime

WIDTH: Final = 2000
"""In pixels; made to be shown at half of it."""

_TILES: Final = 10
_MARGIN: Final = 40
_GAP: Final = 16
_TILE: Final = (WIDTH - 2 * _MARGIN - (_TILES - 1) * _GAP) // _TILES
_CAPTION: Final = 60  # from a row's top to its tiles
_LABELS: Final = 78  # from the tiles' lower edge to the row's
_ROW_GAP: Final = 36
_ROW: Final = _CAPTION + _TILE + _LABELS

_INK, _GREY, _LINE, _FITS, _WHITE = "#1f2328", "#6e7781", "#d0d7de", "#1a7f37", "#ffffff"


@dataclass(frozen=True)
class Candidate:
    """One example picture, its raw score, and in what it departs from the prompt: None where it fits."""

    file: Path
    score: float
    departs: str | None


@dataclass(frozen=True)
class Row:
    """One prompt and its candidates, the best first."""

    prompt: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Tile:
    """Where a candidate's picture stands: its upper left corner, in pixels."""

    candidate: Candidate
    left: int
    top: int


def rank(scorer: Runtime, examples: Path) -> list[Row]:
    """Score every candidate of every example against its prompt."""
    rows = []
    for entry in json.loads((examples / INDEX_NAME).read_text()):
        files = [examples / candidate["file"] for candidate in entry["candidates"]]
        scores = score(scorer, entry["prompt"], files)
        departs = [candidate["departs"] for candidate in entry["candidates"]]
        candidates = map(Candidate, files, scores, departs)
        best_first = sorted(candidates, key=lambda candidate: candidate.score, reverse=True)
        rows.append(Row(entry["prompt"], tuple(best_first)))
    return rows


def layout(row: Row, index: int) -> list[Tile]:
    """Place the candidates of the sheet's row `index` from left to right."""
    top = _top(index) + _CAPTION
    return [
        Tile(candidate, _MARGIN + place * (_TILE + _GAP), top)
        for place, candidate in enumerate(row.candidates)
    ]


def draw(rows: list[Row]) -> Image.Image:
    """Draw every prompt as a caption over its candidates, raw scores beneath, the fitting one framed."""
    height = _top(len(rows)) - _ROW_GAP + _MARGIN
    sheet = Image.new("RGB", (WIDTH, height), _WHITE)
    pen = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        pen.text((_MARGIN, _top(index)), row.prompt, _INK, ImageFont.load_default(34))
        for tile in layout(row, index):
            _draw_tile(sheet, pen, tile)
    return sheet


def save(rows: list[Row], path: Path) -> None:
    """Write the sheet as PNG, in 256 colours: a third of the size, and the lettering stays sharp."""
    draw(rows).quantize(256).save(path, format="PNG", optimize=True)


def _top(index: int) -> int:
    return _MARGIN + index * (_ROW + _ROW_GAP)


def _draw_tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile) -> None:
    candidate, left, top = tile.candidate, tile.left, tile.top
    with Image.open(candidate.file) as picture:
        sheet.paste(picture.convert("RGB").resize((_TILE, _TILE), Image.Resampling.LANCZOS), (left, top))
    fits = candidate.departs is None
    edge = 6 if fits else 1
    outline = (left - edge, top - edge, left + _TILE + edge - 1, top + _TILE + edge - 1)
    pen.rectangle(outline, outline=_FITS if fits else _LINE, width=edge)
    middle = left + _TILE // 2
    for text, drop, size, colour in (
        (f"{candidate.score:+.2f}", 16, 28, _INK),
        (candidate.departs or "fits", 50, 24, _GREY),
    ):
        font = ImageFont.load_default(size)
        pen.text((middle, top + _TILE + drop), text, _FITS if fits else colour, font, anchor="ma")
