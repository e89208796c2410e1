"""Prompts become ids and masks; tests/parity holds that they are upstream's."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.errors import InvalidPrompt
from reward.tokenizer import _in_canonical_order, tokenise


def test_ids_mask_and_padding() -> None:
    """A prompt becomes [CLS], its words, [SEP] and zeros; the mask marks the tokens."""
    tokens = tokenise(["A cat, embeddings"])
    assert tokens.input_ids[0, :9].tolist() == [101, 1037, 4937, 1010, 7861, 8270, 4667, 2015, 102]
    assert tokens.input_ids.shape == (1, 35)
    assert not tokens.input_ids[0, 9:].any()
    assert tokens.attention_mask[0].tolist() == [1] * 9 + [0] * 26
    assert tokens.lengths.tolist() == [9]


def test_the_empty_prompt_is_two_tokens() -> None:
    """An empty prompt and white space become [CLS] [SEP]."""
    tokens = tokenise(["", " \t\n"])
    assert tokens.lengths.tolist() == [2, 2]
    assert tokens.input_ids[:, :3].tolist() == [[101, 102, 0]] * 2


def test_truncation_is_reported_exactly() -> None:
    """33 words fit beside [CLS] and [SEP]; the 34th is cut, and the cut is reported."""
    tokens = tokenise(["word " * 33, "word " * 34])
    assert tokens.lengths.tolist() == [35, 35]
    assert tokens.truncated.tolist() == [False, True]
    assert tokens.input_ids[1, 34] == 102


def test_special_tokens_in_the_text_are_tokens() -> None:
    """Special tokens in the text are tokens, as upstream has it; in lower case they are words."""
    assert tokenise(["[SEP][ENC]"]).input_ids[0, 1:3].tolist() == [102, 30523]
    assert tokenise(["[sep]"]).input_ids[0, 1] == 1031


@given(
    st.text(
        st.sampled_from("a e\u0301\u0316\u0f73\u0344\u1fc1\u00e9\uac01\u11a8\u0338=\u034f\u302e"), max_size=40
    )
)
def test_marks_are_ordered_as_unicode_orders_them(text: str) -> None:
    """Sorting combining marks beforehand changes nothing.

    It is done because Python's own sorting of them is slow.
    """
    ordered = _in_canonical_order(text)
    assert unicodedata.normalize("NFC", ordered) == unicodedata.normalize("NFC", text)
    assert unicodedata.normalize("NFD", ordered) == ordered


def test_no_prompt_gives_empty_arrays() -> None:
    """An empty batch keeps its shape."""
    assert tokenise([]).input_ids.shape == (0, 35)


@pytest.mark.parametrize(("prompt", "why"), [("a" * 10_001, "10001 characters"), ("\ud800", "surrogate")])
def test_what_is_no_prompt(prompt: str, why: str) -> None:
    """A text that is far too long and a lone surrogate are refused."""
    with pytest.raises(InvalidPrompt, match=why):
        tokenise([prompt])
