"""The scripts of `scripts/` and the keys they use, as this client calls them.

A script is composed of three texts: `_clock.lua` (who answers, and when), `_ledger.lua` (what all
scripts share), and its own. Redis 6.2 has no libraries of functions, so the client composes them
before it loads them.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Final, NamedTuple, Self

from model_boss.errors import InvalidClaim


class Keys(NamedTuple):
    """One GPU's keys as every script takes them, all in one hash slot, so that clusters work."""

    capacity: str
    leases: str
    waiters: str
    epoch: str
    events: str

    @classmethod
    def of(cls, prefix: str, gpu: str) -> Self:
        """Name the keys of `gpu`: a device UUID, or `host:index`.

        Raises:
            InvalidClaim: the name would not be one hash tag, or not one word.
        """
        if not is_gpu(gpu):
            raise InvalidClaim(f"{gpu!r} cannot name a GPU: no spaces, no braces, not empty")
        if not re.fullmatch(r"[^\s{}*?\[\]\\]+", prefix):
            raise InvalidClaim(f"{prefix!r} cannot be a prefix of keys")
        return cls(*(f"{prefix}:{{{gpu}}}:{name}" for name in cls._fields))


def is_gpu(name: str) -> bool:
    """Tell whether a name can be one hash tag and one word."""
    return re.fullmatch(r"[^\s{}]+", name) is not None


def first_gpu() -> str:
    """Return the name of this machine's first GPU, for services that are told no other."""
    return f"{socket.gethostname()}:0"


@dataclass(frozen=True)
class Script:
    """One Lua file, whose header names its arguments in their order."""

    name: str

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Read the names from the header."""
        header = re.search(r"^-- ARGV:([\w,\s-]*?)^-- Returns:", source(self.name), re.MULTILINE)
        assert header is not None
        return tuple(re.findall(r"\w+", header[1]))


RESERVE: Final = Script("reserve")
COMMIT: Final = Script("commit")
RENEW: Final = Script("renew")
HAND_OVER: Final = Script("hand_over")
RELEASE: Final = Script("release")
STATUS: Final = Script("status")
CAPACITY: Final = Script("capacity")
SCRIPTS: Final = (RESERVE, COMMIT, RENEW, HAND_OVER, RELEASE, STATUS, CAPACITY)


@cache
def source(name: str) -> str:
    """Read one file of `scripts/`."""
    return (files("model_boss") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")


@cache
def compose(script: Script) -> str:
    """Put the three texts of a script together."""
    return "\n".join(source(name) for name in ("_clock", "_ledger", script.name))
