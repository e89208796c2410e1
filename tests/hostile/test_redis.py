"""Redis is slow, stopped, full or emptied, or its password is in wrong hands, while one asks on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest
import redis

from model_boss.protocol import Keys
from tests.hostile.test_processes import good_caller, works_again
from tests.integration.test_local_up_redis import GPU, SharedStack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(900)]

_KEYS: Final = Keys.of("model-boss", GPU)


def _stopped(stack: SharedStack, client: redis.Redis) -> None:
    del client
    os.kill(stack.redis_pid(), signal.SIGSTOP)
    time.sleep(8)
    os.kill(stack.redis_pid(), signal.SIGCONT)


def _killed(stack: SharedStack, client: redis.Redis) -> None:
    del client
    os.kill(stack.redis_pid(), signal.SIGKILL)


def _waiters(stack: SharedStack, client: redis.Redis) -> None:
    del stack
    with client.pipeline(transaction=False) as pipe:
        for number in range(100_000):
            pipe.zadd(_KEYS.waiters, {f"forged-{number}": number})
        pipe.execute()


def _leases(stack: SharedStack, client: redis.Redis) -> None:
    del stack
    with client.pipeline(transaction=False) as pipe:
        for number in range(100_000):
            pipe.hset(_KEYS.leases, f"forged-{number}", json.dumps({"vram_mb": number}))
        pipe.execute()


def _unreadable(stack: SharedStack, client: redis.Redis) -> None:
    del stack
    for content in (b"\xff\xfe", b"[" * 100_000, b"{}", b"", b"nil", b'{"vram_mb":1e999}'):
        client.hset(_KEYS.leases, content[:20], content)


def _overwritten(stack: SharedStack, client: redis.Redis) -> None:
    del stack
    for lease in client.hkeys(_KEYS.leases):
        client.hset(_KEYS.leases, lease, "{")


def _of_another_kind(stack: SharedStack, client: redis.Redis) -> None:
    del stack
    for key in (_KEYS.leases, _KEYS.waiters, _KEYS.epoch, _KEYS.events):
        client.delete(key)
        client.rpush(key, "x")


def _large(stack: SharedStack, client: redis.Redis) -> None:
    del stack
    for key in (_KEYS.waiters, _KEYS.events):
        client.set(key, bytes(100_000_000))


def _in_the_future(stack: SharedStack, client: redis.Redis) -> None:
    del stack
    client.hset(_KEYS.epoch, mapping={"started_at_ms": 2**52, "grace_until_ms": 2**52, "fence": 2**52})


ATTACKS: Final[dict[str, Callable[[SharedStack, redis.Redis], object]]] = {
    "stopped for 8 s": _stopped,
    "killed": _killed,
    "asleep for 5 s": lambda _, client: client.eval(_BUSY, 0),
    "100,000 forged waiters": _waiters,
    "100,000 forged leases": _leases,
    "leases that cannot be read": _unreadable,
    "our lease, overwritten": _overwritten,
    "keys of another kind": _of_another_kind,
    "keys of 100 MB": _large,
    "an epoch in the future": _in_the_future,
    "emptied": lambda _, client: client.flushall(),
    "no memory left": lambda _, client: client.config_set("maxmemory", "1"),
    "connections cut": lambda _, client: [
        client.client_kill_filter(_type="normal", skipme=True) for _ in range(50)
    ],
    "scripts forgotten": lambda _, client: client.script_flush(),
    "read-only": lambda _, client: client.replicaof("127.0.0.1", 1),
}
_BUSY: Final = "local e = redis.call('TIME')[1] + 5; while redis.call('TIME')[1] + 0 < e do end"


@pytest.fixture(scope="module")
def stack(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStack]:
    """One stack for all attacks: each must find it as it was."""
    directory = tmp_path_factory.mktemp("redis")
    with SharedStack(published_repository, directory, "--gpu-total-mb=4096").running() as running:
        yield running


@pytest.mark.parametrize("kind", ATTACKS)
async def test_what_happens_to_redis(stack: SharedStack, kind: str) -> None:
    """Whatever happens to Redis, callers get right scores or coded errors, and it works again."""
    async with good_caller(stack) as answers:
        with redis.Redis.from_url(stack.redis_url, socket_timeout=60) as client:
            with suppress(redis.ConnectionError):
                await asyncio.to_thread(ATTACKS[kind], stack, client)
            await asyncio.sleep(8)  # longer than a lease lasts
            if kind in {"no memory left", "read-only"}:
                client.config_set("maxmemory", "0")
                client.replicaof("NO", "ONE")
        await works_again(answers)
    print(f"\nRedis, {kind}: good caller {answers}")  # noqa: T201 - for docs/reliability.md
    assert answers.wrong == []
