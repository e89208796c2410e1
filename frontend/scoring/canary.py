"""Which version answers a question, and which only compares: docs/decisions/canary-in-the-frontend.md."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frontend.scoring.cache import Question
    from frontend.triton.served import Served, ServedVersion


def choose(question: Question, served: Served) -> ServedVersion:
    """Choose the canary for its share of the questions, the stable version for the others."""
    canary = served.canary
    return canary if canary is not None and is_in_share(question, canary) else served.stable


def is_in_share(question: Question, version: ServedVersion) -> bool:
    """Tell whether a question is in a version's share.

    The same for one question in every frontend and at every time; a larger share has all of the
    smaller one; the shares of two versions have nothing to do with one another.
    """
    salt = f"{version.role}:{version.version}".encode()
    digest = hashlib.sha256(salt + question.digest).digest()
    return int.from_bytes(digest[:8], "big") < version.share * 2**64
