"""The adapter: what is wrong with one request is that request's error alone."""

from __future__ import annotations

import sys
from importlib import reload
from typing import TYPE_CHECKING, Any

import pytest

from reward.errors import InvalidTensor
from reward.tokenizer import tokenise
from tests.unit.reward import triton_stand_in

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The adapter over stand-ins of Triton's own module, which is only there inside Triton."""
    reload(triton_stand_in)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_stand_in)
    monkeypatch.delitem(sys.modules, "reward.triton", raising=False)
    from reward import triton

    return triton


def test_tensors_out_of_contract_are_refused(triton: Any) -> None:
    """Ids outside the vocabulary and masks of nothing, or of other numbers, are refused before the batch."""
    tokens = tokenise(["a cat"])
    triton.check(tokens.input_ids, tokens.attention_mask, vocabulary_size=30_524)
    for ids, mask in (
        (tokens.input_ids - 1, tokens.attention_mask),
        (tokens.input_ids + 30_524, tokens.attention_mask),
        (tokens.input_ids, tokens.attention_mask * 0),
        (tokens.input_ids, tokens.attention_mask * 2),
    ):
        with pytest.raises(InvalidTensor):
            triton.check(ids, mask, vocabulary_size=30_524)
