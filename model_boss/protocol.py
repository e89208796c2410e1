"""The scripts of `scripts/` as this client calls them.

A script is composed of three texts: who answers and when (`_clock.lua`), what all share (`_ledger.lua`),
and its own. Redis 6.2 has no libraries of functions, so the client composes them before it loads them;
the digest of the composed text is the name under which Redis keeps it.

The header of each file and the table below say the same; a test holds them against each other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

KEYS: Final = ("capacity", "leases", "waiters", "epoch", "events")


@dataclass(frozen=True)
class Script:
    """One Lua file: its arguments in order, and the words its replies begin with."""

    name: str
    arguments: tuple[str, ...]
    replies: tuple[str, ...]


RESERVE: Final = Script(
    "reserve",
    ("lease_id", "owner", "holder", "model", "vram_mb", "priority", "ttl_ms"),
    ("granted", "held", "waiting", "conflict", "too_large", "unknown_capacity", "ttl_mismatch"),
)
COMMIT: Final = Script("commit", ("lease_id", "owner", "fence", "used_mb"), ("ok", "yield", "lost"))
RENEW: Final = Script(
    "renew",
    (
        *("lease_id", "owner", "holder", "fence", "ttl_ms", "in_use"),
        *("model", "vram_mb", "priority", "phase", "used_mb", "total_mb", "margin_mb"),
    ),
    ("ok", "yield", "lost", "ttl_mismatch"),
)
HAND_OVER: Final = Script("hand_over", ("lease_id", "owner", "fence"), ("ok", "lost"))
YIELD: Final = Script("yield", ("lease_id",), ("ok", "lost"))
RELEASE: Final = Script("release", ("lease_id", "owner", "fence"), ("ok", "lost"))
CANCEL: Final = Script("cancel", ("lease_id", "owner"), ("ok", "lost"))
STATUS: Final = Script("status", (), ("table",))
CAPACITY: Final = Script(
    "capacity", ("total_mb", "margin_mb", "measured", "used_mb", "measured_at_ms"), ("ok",)
)
SCRIPTS: Final = (RESERVE, COMMIT, RENEW, HAND_OVER, YIELD, RELEASE, CANCEL, STATUS, CAPACITY)


@dataclass(frozen=True)
class Text:
    """A composed script and the digest under which Redis keeps it."""

    lua: str
    sha1: str


@cache
def source(name: str) -> str:
    """Read one file of `scripts/`."""
    return (files("model_boss") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")


@cache
def compose(script: Script) -> Text:
    """Put the three texts of a script together."""
    return joined(source("_clock"), source("_ledger"), source(script.name))


def joined(*texts: str) -> Text:
    """Compose a script of these texts."""
    lua = "\n".join(texts)
    return Text(lua, hashlib.sha1(lua.encode(), usedforsecurity=False).hexdigest())
