"""The built-in questions are the same everywhere; a user's own are read strictly."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from export.errors import QuestionsError, UnusableImage
from export.questions import drawn, read
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.pictures import photograph

if TYPE_CHECKING:
    from pathlib import Path


def test_the_built_in_pictures_never_change() -> None:
    """The built-in pictures never change, so reports of different machines are comparable.

    Another seed gives other pictures.
    """
    asked = drawn()
    assert asked.pixels.shape == (20, 3, 224, 224)
    assert asked.pixels.dtype == np.uint8
    digest = hashlib.sha256(asked.pixels.tobytes()).hexdigest()
    assert digest[:16] == "c7f2f68dca0a864f"
    assert not (drawn(seed=1).pixels == asked.pixels).all(axis=(1, 2, 3)).any()


def test_ten_prompts_have_ten_candidates_each() -> None:
    """There are short, long, empty and foreign prompts, with ten candidates each.

    All pictures are used.
    """
    asked = drawn()
    assert [len(set(candidates)) for candidates in asked.candidates] == [10] * 10
    assert {place for candidates in asked.candidates for place in candidates} == set(range(20))
    lengths = tokenise(asked.prompts).lengths
    assert lengths.min() == 2
    assert lengths.max() == 35


def test_rows_are_the_questions_one_after_the_other() -> None:
    """The rows repeat each prompt for each of its candidates."""
    asked = drawn()
    tokens, pictures = asked.rows()
    assert len(pictures) == len(tokens.input_ids) == 100
    assert tuple(pictures[10:20]) == asked.candidates[1]
    assert (tokens.input_ids[10:20] == tokenise([asked.prompts[1]]).input_ids).all()


def test_ones_own_images_are_read_as_the_service_reads_them(tmp_path: Path) -> None:
    """A user's own images are read once each, however many prompts name them.

    The set has the name of its directory.
    """
    _write(
        tmp_path,
        [{"prompt": "a", "images": ["1.jpg", "2.jpg"]}, {"prompt": "b", "images": ["2.jpg", "1.jpg"]}],
    )
    asked = read(tmp_path)
    assert asked.name == tmp_path.name
    assert asked.prompts == ("a", "b")
    assert asked.candidates == ((0, 1), (1, 0))
    np.testing.assert_array_equal(asked.pixels[1], prepare(photograph("coffee")).pixels)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        "7",
        "[7]",
        [{"prompt": "a"}],
        [{"prompt": 1, "images": ["1.jpg", "2.jpg"]}],
        [{"prompt": "a", "images": [1, 2]}],
    ],
)
def test_another_form_is_refused(tmp_path: Path, content: Any) -> None:
    """A file in another form is refused; the message shows the form that is read."""
    _write(tmp_path, content)
    with pytest.raises(QuestionsError, match=r'not a list of \{"prompt"|needs a prompt'):
        read(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing list, a missing image, and a prompt with nothing to rank are named."""
    with pytest.raises(QuestionsError, match=r"prompts\.json: cannot be read: No such file"):
        read(tmp_path)
    for content in ([], [{"prompt": "a", "images": ["1.jpg"]}]):
        _write(tmp_path, content)
        with pytest.raises(QuestionsError, match="needs a prompt, and two images for each"):
            read(tmp_path)
    _write(tmp_path, [{"prompt": "a", "images": ["1.jpg", "3.jpg"]}])
    with pytest.raises(UnusableImage, match=r"3\.jpg: cannot be read"):
        read(tmp_path)


def _write(directory: Path, content: Any) -> None:
    for name, picture in (("1.jpg", "astronaut"), ("2.jpg", "coffee")):
        (directory / name).write_bytes(photograph(picture))
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / "prompts.json").write_text(text)
