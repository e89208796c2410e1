"""Prompts -> token ids and attention mask, as upstream's tokenizer gives them.

Upstream (ImageReward/models/BLIP/blip.py, `init_tokenizer`) takes bert-base-uncased, adds `[DEC]` and
`[ENC]`, and pads and cuts to 35 tokens. The vocabulary is data of this package; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import numpy as np
from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from reward.contract import MAX_TOKENS
from reward.errors import InvalidPrompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VOCABULARY_SHA256: Final = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


@dataclass(frozen=True)
class Tokens:
    """A batch of tokenised prompts."""

    input_ids: NDArray[np.int64]  # (B, 35), padded with [PAD] = 0
    attention_mask: NDArray[np.int64]  # (B, 35), 1 where a token stands
    lengths: NDArray[np.int64]  # (B,), tokens kept, [CLS] and [SEP] included
    truncated: NDArray[np.bool_]  # (B,), whether the prompt was longer


def tokenise(prompts: Sequence[str]) -> Tokens:
    """Tokenise a batch of prompts.

    Raises:
        InvalidPrompt: a prompt holds a lone surrogate, which no UTF-8 text can.
    """
    for prompt in prompts:
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise InvalidPrompt("the prompt is not valid Unicode: it holds a lone surrogate")
    encodings: list[Encoding] = _tokenizer().encode_batch(list(prompts))
    mask = np.array([encoding.attention_mask for encoding in encodings], np.int64).reshape(-1, MAX_TOKENS)
    return Tokens(
        input_ids=np.array([encoding.ids for encoding in encodings], np.int64).reshape(-1, MAX_TOKENS),
        attention_mask=mask,
        lengths=mask.sum(axis=1),
        truncated=np.array([bool(encoding.overflowing) for encoding in encodings], np.bool_),
    )


@cache
def _tokenizer() -> Tokenizer:
    data = (files("reward") / "vocab.txt").read_bytes()
    if hashlib.sha256(data).hexdigest() != VOCABULARY_SHA256:
        raise RuntimeError("reward/vocab.txt is not the vocabulary of bert-base-uncased")
    words = data.decode().split("\n")[:-1]
    vocabulary = {word: index for index, word in enumerate(words)}  # 30,522 words
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    # Written in a prompt, these words are the tokens themselves, as upstream has it; [DEC] and [ENC] are new.
    special = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "[DEC]", "[ENC]"]
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in special])
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(length=MAX_TOKENS, pad_id=vocabulary["[PAD]"], pad_token="[PAD]")  # noqa: S106
    return tokenizer
