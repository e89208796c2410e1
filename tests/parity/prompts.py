"""Prompts of every script, to the last character of Unicode."""

from __future__ import annotations

import random
import sys

# Two characters on each side make every code point part of a word, wherever a table may end.
_EVERY_CHARACTER = [f"a{chr(code)}b" for code in range(0x3100) if not 0xD800 <= code <= 0xDFFF]
_BLOCKS = [
    *[(0x20, 0x7F), (0xA0, 0x250), (0x250, 0x600), (0x600, 0x1100), (0x1100, 0x2000), (0x2000, 0x3100)],
    *[(0x3100, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x12000), (0x1D000, 0x20000), (0x20000, 0x32000)],
    (0xE0000, 0xE01F0),
]
_WORDS = [" ", "a", "the painting", "[SEP]", "[CLS]", "[DEC]", "[enc]", "\t", "\n", "\u00a0", "İ", "Σ", "é"]


def prompts_of_all_scripts() -> list[str]:
    """Every character up to U+30FF, 12,000 mixtures of scripts, and some particular prompts."""
    return [*_EVERY_CHARACTER, *_mixtures(12_000), *_PARTICULAR]


def _mixtures(count: int) -> list[str]:
    choose = random.Random(0)
    prompts = []
    for _ in range(count):
        blocks = [_BLOCKS[0], *choose.sample(_BLOCKS, 2)]
        pieces = []
        for _ in range(choose.randint(1, 30)):
            low, high = choose.choice(blocks)
            pieces.append(
                choose.choice(_WORDS) if choose.random() < 0.2 else chr(choose.randrange(low, high))
            )
        prompts.append("".join(pieces))
    return prompts


_PARTICULAR = [
    "",
    " \t\n",
    "a" * 100,
    "a" * 101,
    "word " * 1900,
    "ΟΔΟΣ İstanbul ǅ ß ẞ ﬁ ŉ",
    "[CLS][SEP] [MASK]ed [PAD] x[UNK]y [DEC] [ENC] [cls]",
    "👩‍👩‍👧 🏳️‍🌈 é\u0301\u0302",
    f"highest {chr(sys.maxunicode)}",
]
