"""Which version answers a question, and which only compares.

docs/decisions/canary-in-the-frontend.md explains it.
"""

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

    A question gets the same answer in every frontend and at every time. A larger share contains all
    of a smaller one. The shares of two versions are independent of each other.
    """
    salt = f"{version.role}:{version.version}".encode()
    digest = hashlib.sha256(salt + question.digest).digest()
    return int.from_bytes(digest[:8], "big") < version.share * 2**64
