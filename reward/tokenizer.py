"""Prompts -> token ids and attention mask, exactly as upstream's tokenizer gives them.

Upstream (ImageReward/models/BLIP/blip.py, `init_tokenizer`) takes bert-base-uncased in its Python
form, adds `[DEC]` and `[ENC]`, and pads and cuts to 35 tokens. Its two steps are here. The first
makes words: lower case, no accents, punctuation and Chinese characters on their own
(google-research/bert, tokenization.py). The second makes word pieces, longest match first. The
Unicode tables are Python's, as in upstream. The `tokenizers` library has older ones and differs on
scripts added since (docs/decisions/tokeniser.md).

The vocabulary is data of this package; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Final

import numpy as np

from reward.contract import MAX_PROMPT_CHARACTERS, MAX_TOKENS
from reward.errors import InvalidPrompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

VOCABULARY_SHA256: Final = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"

_MAX_WORD_CHARACTERS: Final = 100  # a longer word is [UNK]

# If a prompt contains one of these words, it becomes that token, as in upstream.
_SPECIAL: Final = re.compile(r"(\[(?:UNK|SEP|PAD|CLS|MASK|DEC|ENC)\])")

_CHINESE: Final = re.compile(
    "([\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f])"
)


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
        InvalidPrompt: longer than 10,000 characters, or with a lone surrogate, which is not valid
            Unicode text.
    """
    rows = [_encode(prompt) for prompt in prompts]
    lengths = np.array([len(row) for row, _ in rows], np.int64)
    input_ids = np.zeros((len(rows), MAX_TOKENS), np.int64)
    for index, (row, _) in enumerate(rows):
        input_ids[index, : len(row)] = row
    return Tokens(
        input_ids=input_ids,
        attention_mask=(np.arange(MAX_TOKENS) < lengths[:, None]).astype(np.int64),
        lengths=lengths,
        truncated=np.array([truncated for _, truncated in rows], np.bool_),
    )


def _encode(prompt: str) -> tuple[list[int], bool]:
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InvalidPrompt(
            f"the prompt has {len(prompt)} characters; {MAX_PROMPT_CHARACTERS} are allowed "
            f"(and {MAX_TOKENS} tokens are read)"
        )
    if not prompt.isascii() and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InvalidPrompt("the prompt is not valid Unicode: it holds a lone surrogate")
    vocabulary = _vocabulary()
    room = MAX_TOKENS - 2  # for [CLS] and [SEP]
    pieces = list(islice((piece for word in _words(prompt) for piece in _pieces(word)), room + 1))
    ids = [vocabulary[piece] for piece in pieces[:room]]
    return [vocabulary["[CLS]"], *ids, vocabulary["[SEP]"]], len(pieces) > room


def _words(prompt: str) -> Iterator[str]:
    """Split a prompt into words; a special token is a word of its own."""
    for index, part in enumerate(_SPECIAL.split(prompt)):
        if index % 2:
            yield part
            continue
        if part.isascii():  # a table does the same, for much less
            text = part.translate(_CLEANED)
        else:
            # Lower case is made character by character: on a whole word, Python's lower() changes a
            # final sigma.
            text = "".join(_clean(character.lower()) for character in part)
        if not text.isascii():  # else there is nothing to normalise
            text = unicodedata.normalize("NFC", _in_canonical_order(_CHINESE.sub(r" \1 ", text)))
        for word in text.split():
            yield from _split_punctuation(word if word.isascii() else _strip_accents(word))


def _in_canonical_order(text: str) -> str:
    """Decompose, and sort each run of combining marks.

    NFC makes the same text of the result (Unicode, D109). Python's own normalisation sorts in
    quadratic time: 10,000 marks out of order take it 0.7 s.
    """
    decomposed = chain.from_iterable(unicodedata.normalize("NFD", character) for character in text)
    runs = groupby(decomposed, key=lambda character: unicodedata.combining(character) > 0)
    return "".join(chain.from_iterable(sorted(run, key=unicodedata.combining) for _, run in runs))


def _clean(text: str) -> str:
    """Drop control characters and make every kind of space one; `text` is one lowered character."""
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if character in " \t\n\r" or category == "Zs":
            kept.append(" ")
        elif character not in "\0\ufffd" and not category.startswith("C"):
            kept.append(character)
    return "".join(kept)


_CLEANED: Final = {code: _clean(chr(code).lower()) for code in range(128)}


def _strip_accents(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")


def _split_punctuation(word: str) -> Iterator[str]:
    if word.isalnum():
        yield word
        return
    start = 0
    for index, character in enumerate(word):
        if not _is_punctuation(character):
            continue
        if start < index:
            yield word[start:index]
        yield character
        start = index + 1
    if start < len(word):
        yield word[start:]


def _is_punctuation(character: str) -> bool:
    # All ASCII that is neither letter, digit, space nor control, even if Unicode calls it a symbol
    # ("$", "^").
    if "!" <= character <= "~":
        return not character.isalnum()
    return unicodedata.category(character).startswith("P")


def _pieces(word: str) -> list[str]:
    """Cut a word into the longest pieces of the vocabulary; return [UNK] if one cannot be found."""
    vocabulary = _vocabulary()
    if len(word) > _MAX_WORD_CHARACTERS:
        return ["[UNK]"]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocabulary:
                break
        else:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


@cache
def _vocabulary() -> dict[str, int]:
    data = (files("reward") / "vocab.txt").read_bytes()
    if hashlib.sha256(data).hexdigest() != VOCABULARY_SHA256:
        raise RuntimeError("reward/vocab.txt is not the vocabulary of bert-base-uncased")
    words = [*data.decode().split("\n")[:-1], "[DEC]", "[ENC]"]  # 30,522 words and upstream's two
    return {word: index for index, word in enumerate(words)}
