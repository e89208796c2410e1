"""The scripts on a clock that the tests set, called in the plain protocol.

The product composes every script with `_clock.lua`, which reads Redis's own time. Here another text
takes its place. Nothing in the shipped scripts can be told the time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from model_boss.protocol import Keys, source

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

    from model_boss.protocol import Script
    from tests.integration.model_boss.reference import ReferenceLedger

# The time and the server's name come as two more keys than the scripts know of.
TURNED_CLOCK: Final = """
local function now_ms() return tonumber(KEYS[6]) end
local function server_id() return KEYS[7] end
"""


# Calls a script, and adds to its reply everything that the keys hold then.
OBSERVE: Final = """
local reply = (function()
%s
end)()
return {reply, cjson.encode({
  redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2]),
  redis.call('ZRANGE', KEYS[3], 0, -1), redis.call('HGETALL', KEYS[4]),
})}
"""


@cache
def compose_turned(script: Script) -> str:
    return compose(source("_ledger"), source(script.name))


def compose(*texts: str) -> str:
    return OBSERVE % "\n".join((TURNED_CLOCK, *texts))


@dataclass
class State:
    """What the keys hold, and the order of the queue."""

    capacity: dict[str, int]
    leases: dict[str, dict[str, Any]]
    queue: list[str]
    epoch: dict[str, int | str]


class TurnedLedger:
    """Call the scripts of one GPU at times that the test chooses."""

    def __init__(self, client: redis.Redis, mutated: Mapping[str, str] | None = None) -> None:
        """Take the text of `mutated` in place of a file of `scripts/`."""
        self._client = client
        self._mutated = mutated or {}
        self.keys = Keys.of("model-boss", "GPU-0")
        self._keys = tuple(self.keys)
        self._digests: dict[Script, str] = {}
        self.now_ms = 0
        self.server = "first"
        self.clear()

    def clear(self) -> None:
        self._client.flushall()

    def call(self, script: Script, *arguments: int | str) -> tuple[list[Any], State]:
        """Call one script; return its reply and what the keys hold after it."""
        assert len(arguments) == len(script.arguments)
        if script not in self._digests:
            self._digests[script] = self._client.script_load(self._compose(script))
        keys: tuple[str | int, ...] = (*self._keys, self.now_ms, self.server)
        answer: Any = self._client.evalsha(self._digests[script], len(keys), *keys, *arguments)
        reply, observed = answer
        capacity, leases, queue, epoch = (_items(items) for items in json.loads(observed))
        return reply, State(
            {name: _number(value) for name, value in _pairs(capacity)},
            {lease_id: json.loads(lease) for lease_id, lease in _pairs(leases)},
            queue,
            {name: value if name == "server" else _number(value) for name, value in _pairs(epoch)},
        )

    def restore(self, ledger: ReferenceLedger) -> None:
        """Write a ledger into the keys, as a replica would have it."""
        self.clear()
        pipe = self._client.pipeline(transaction=False)
        hashes: dict[str, dict[Any, Any]] = {
            self.keys.capacity: ledger.capacity,
            self.keys.leases: {i: json.dumps(lease) for i, lease in ledger.leases.items()},
            self.keys.epoch: ledger.epoch,
        }
        for key, values in hashes.items():
            if values:
                pipe.hset(key, mapping=values)
        for lease_id, ticket in ledger.tickets.items():
            priority = ledger.leases[lease_id]["priority"]
            pipe.zadd(self.keys.waiters, {lease_id: ticket - priority * 2**40})
        pipe.execute()

    def _compose(self, script: Script) -> str:
        if not self._mutated:
            return compose_turned(script)
        names = ("_ledger", script.name)
        return compose(*(self._mutated.get(name) or source(name) for name in names))


def _number(text: str) -> Any:
    """Read a number, or leave what somebody else wrote in its place."""
    return int(text) if text.isdecimal() else text


def _items(items: list[str] | dict[str, str]) -> list[str]:
    return list(items)  # cjson writes an empty list as {}


def _pairs(flat: list[str]) -> list[tuple[str, str]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
