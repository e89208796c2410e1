"""The example pictures and their index."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from demo.examples import INDEX_NAME, SCENES, write
from demo.scenes import ATTRIBUTES
from reward.preprocess import prepare

if TYPE_CHECKING:
    from pathlib import Path


def test_examples_name_one_fitting_picture_each(tmp_path: Path) -> None:
    """Each prompt has ten readable pictures, and only one of them fits it.

    Each other picture is damaged or departs from the prompt in an attribute.
    """
    write(tmp_path)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    assert [entry["prompt"] for entry in index] == list(SCENES)
    for entry in index:
        departs = {candidate["file"]: candidate["departs"] for candidate in entry["candidates"]}
        assert len(departs) == 10
        assert [name for name, what in departs.items() if what is None] == [entry["fitting"]]
        assert sum(what in ATTRIBUTES for what in departs.values()) == 6
        assert all(prepare((tmp_path / name).read_bytes()).pixels.shape == (3, 224, 224) for name in departs)


def test_examples_are_the_same_every_time(tmp_path: Path) -> None:
    """Drawn again, the examples are equal byte for byte."""
    for name in ("first", "second"):
        write(tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
