"""Whether a version loads and scores, tried in a process of its own beside the served one.

Its `model.py` runs there as Triton would run it. If that process crashes or runs out of memory,
nothing else does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.errors import Refused
from reward.contract import IMAGE_SIZE
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PROMPTS: Final = ("", "a cup of coffee", "a red square on a blue ground", "a painting of an ocean, day time")


def questions() -> tuple[NDArray[Any], ...]:
    """Return the network's inputs for four fixed images and prompts: pixels, token ids, mask."""
    coarse = np.random.default_rng(0).integers(0, 256, (len(PROMPTS), 3, 7, 7), dtype=np.uint8)
    pixels = coarse.repeat(IMAGE_SIZE // 7, axis=2).repeat(IMAGE_SIZE // 7, axis=3)  # (4, 3, 224, 224)
    tokens = tokenise(list(PROMPTS))
    return pixels, tokens.input_ids, tokens.attention_mask


def trial(directory: Path, config: dict[str, Any], *, timeout_s: float) -> list[float]:
    """Load a version and score the fixed questions with it; return the scores.

    Args:
        directory: of the version.
        config: Triton's configuration of the network.
        timeout_s: for the whole trial.

    Raises:
        Refused: it does not load, does not answer, or its scores are not numbers.
    """
    command = [sys.executable, "-m", "export.trial_process", str(directory.resolve())]
    try:
        done = subprocess.run(  # noqa: S603 - ours
            command,
            input=json.dumps(config),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"{directory}: neither loaded nor scored within {timeout_s:g} s") from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        words = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise Refused(f"{directory}: its process ended with status {done.returncode}: {words[0]}")
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise Refused(f"{directory}: {answer['error']}")
    scores: list[float] = answer["scores"]
    if len(scores) != len(PROMPTS) or not np.isfinite(scores).all():
        raise Refused(f"{directory}: gives scores that are no numbers: {scores}")
    return scores
