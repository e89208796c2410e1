"""The names of one GPU's keys: all in one hash slot, so that a script may touch them in a cluster."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from typing import Self

from model_boss.errors import InvalidClaim


@dataclass(frozen=True)
class Keys:
    """One GPU's keys, in the order in which every script takes them."""

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
        if not re.fullmatch(r"[^\s{}]+", gpu):
            raise InvalidClaim(f"{gpu!r} cannot name a GPU: no spaces, no braces, not empty")
        if not re.fullmatch(r"[^\s{}*?\[\]\\]+", prefix):
            raise InvalidClaim(f"{prefix!r} cannot be a prefix of keys")
        return cls(*(f"{prefix}:{{{gpu}}}:{name}" for name in cls.__dataclass_fields__))

    def ordered(self) -> tuple[str, ...]:
        """Return them as `KEYS`."""
        return astuple(self)


def gpu_of(key: str) -> str:
    """Read the GPU's name back out of a key."""
    return key[key.index("{") + 1 : key.index("}")]
