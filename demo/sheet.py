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

# In pixels; made to be shown at half of it.
WIDTH: Final = 2000
_TILE, _GAP, _MARGIN = 177, 16, 40
ROW: Final = 351
"""From one row's caption to the next."""
_CAPTION: Final = 60
_INK, _GREY, _LINE, _FITS, _WHITE = "#1f2328", "#6e7781", "#d0d7de", "#1a7f37", "#ffffff"


@dataclass(frozen=True)
class Candidate:
    """One example picture, its raw score, and in what it departs from the prompt: None where it fits."""

    file: Path
    score: float
    departs: str | None


def rank(scorer: Runtime, examples: Path) -> dict[str, list[Candidate]]:
    """Score every candidate of every example against its prompt; the best comes first."""
    ranked = {}
    for entry in json.loads((examples / INDEX_NAME).read_text()):
        files = [examples / candidate["file"] for candidate in entry["candidates"]]
        scores = score(scorer, entry["prompt"], files)
        departs = [candidate["departs"] for candidate in entry["candidates"]]
        candidates = map(Candidate, files, scores, departs)
        ranked[entry["prompt"]] = sorted(candidates, key=lambda candidate: candidate.score, reverse=True)
    return ranked


def save(ranked: dict[str, list[Candidate]], path: Path) -> None:
    """Draw every prompt as a caption over its candidates, raw scores beneath, the fitting one framed.

    The PNG has 256 colours: a third of the size, and the lettering stays sharp.
    """
    sheet = Image.new("RGB", (WIDTH, len(ranked) * ROW + _MARGIN), _WHITE)
    pen = ImageDraw.Draw(sheet)
    for top, (prompt, candidates) in zip(range(_MARGIN, sheet.height, ROW), ranked.items(), strict=False):
        pen.text((_MARGIN, top), prompt, _INK, ImageFont.load_default(34))
        for place, candidate in enumerate(candidates):
            _draw(sheet, pen, candidate, _MARGIN + place * (_TILE + _GAP), top + _CAPTION)
    sheet.quantize(256).save(path, format="PNG", optimize=True)


def _draw(sheet: Image.Image, pen: ImageDraw.ImageDraw, candidate: Candidate, left: int, top: int) -> None:
    with Image.open(candidate.file) as picture:
        sheet.paste(picture.convert("RGB").resize((_TILE, _TILE), Image.Resampling.LANCZOS), (left, top))
    fits = candidate.departs is None
    edge = 6 if fits else 1
    outline = (left - edge, top - edge, left + _TILE + edge - 1, top + _TILE + edge - 1)
    pen.rectangle(outline, outline=_FITS if fits else _LINE, width=edge)
    for text, drop, size, colour in (
        (f"{candidate.score:+.2f}", 16, 28, _INK),
        (candidate.departs or "fits", 50, 24, _GREY),
    ):
        at = (left + _TILE // 2, top + _TILE + drop)
        pen.text(at, text, _FITS if fits else colour, ImageFont.load_default(size), anchor="ma")
