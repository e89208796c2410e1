"""Which version answers a question."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from frontend.scoring.cache import Question
from frontend.scoring.canary import choose, is_in_share
from frontend.triton.served import Role, Served, ServedVersion, read_served
from reward import PreparedImage
from reward.contract import IMAGE_SIZE
from reward.tokenizer import tokenise
from tests.unit.frontend.triton.stand_in import deploy, publish_manifest

if TYPE_CHECKING:
    from pathlib import Path

BLACK = bytearray(3 * IMAGE_SIZE**2)
EXPECTED = [37, 38, 88, 108, 117, 169, 178, 189]
TOKENS = tokenise(["a cat"])


def _question(number: int, prompt: str | None = None) -> Question:
    image = PreparedImage(BLACK, 1, 1, "PNG", f"{number:064x}")
    return Question(image, TOKENS if prompt is None else tokenise([prompt]))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    for version in (3, 4):
        publish_manifest(tmp_path, version=version)
    deploy(tmp_path, 3, canary=(4, 0.05))
    return read_served(tmp_path, "any")


def _canary(served: Served, **changes: float | str) -> ServedVersion:
    assert served.canary is not None
    return replace(served.canary, **changes)  # type: ignore[arg-type] # which fields, a test says


def test_the_share_is_kept(served: Served) -> None:
    """Of 20,000 questions, about 5 % go to the canary (1,000 expected, deviation 31)."""
    count = sum(choose(_question(number), served).role is Role.CANARY for number in range(20_000))
    assert 850 < count < 1150


def test_one_question_meets_one_version(served: Served) -> None:
    """A question always goes to the same version.

    It does not matter which process asks, or how the prompt is written. The answers here are fixed
    for ever.
    """
    chosen = [number for number in range(200) if choose(_question(number), served).role is Role.CANARY]
    assert chosen == [number for number in range(200) if is_in_share(_question(number), _canary(served))]
    assert chosen == EXPECTED
    assert all(choose(_question(number, " A  CÄT "), served).role is Role.CANARY for number in chosen)


def test_a_larger_share_keeps_the_questions_of_the_smaller(served: Served) -> None:
    """When the share grows from 5 % to 20 %, no question goes back to the stable version."""
    small, large = _canary(served), _canary(served, share=0.2)
    questions = [_question(number) for number in range(500)]
    assert all(is_in_share(one, large) for one in questions if is_in_share(one, small))
    assert not any(is_in_share(one, _canary(served, share=0.0)) for one in questions)
    assert all(is_in_share(one, _canary(served, share=1.0)) for one in questions)


def test_shares_of_two_versions_are_independent(served: Served) -> None:
    """Another canary, or the same version as a shadow, gets other questions."""
    questions = [_question(number) for number in range(4000)]
    first = _canary(served, share=0.5)
    for changes in ({"version": "5"}, {"role": Role.SHADOW}):
        second = replace(first, **changes)
        both = sum(is_in_share(one, first) and is_in_share(one, second) for one in questions)
        assert 850 < both < 1150  # a quarter


def test_without_a_canary(tmp_path: Path) -> None:
    """Without a canary the stable version answers everything."""
    served = read_served(publish_manifest(tmp_path), "any")
    assert {choose(_question(number), served).version for number in range(100)} == {"3"}
