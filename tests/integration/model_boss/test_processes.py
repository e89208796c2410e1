"""Eight processes contend for one GPU, and three of them are killed."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from model_boss import Capacity, Ledger, LedgerOptions
from model_boss.protocol import Keys
from tests.integration.model_boss.turns import Turns

if TYPE_CHECKING:
    import redis

    from tests.integration.model_boss.servers import RedisServer

GPU = "GPU-0"
TOTAL_MB, MARGIN_MB = 20, 2
CLIENTS, KILLED = 8, 3
TTL_S = 3.0
TTL_MS = round(TTL_S * 1000)


class Contenders:
    """The processes, what they wrote, and when they were killed."""

    def __init__(self, url: str, directory: Path, until_s: float) -> None:
        self.killed_at_s: dict[str, float] = {}
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for number in range(CLIENTS):
            name = f"client{number}"
            with (directory / name).open("wb") as told:
                self._processes[name] = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "tests.integration.model_boss.contender"),
                        *(url, name, GPU, str(TTL_S), str(until_s)),
                    ],
                    stdout=told,
                    cwd=Path(__file__).parents[3],
                )

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()
        self.killed_at_s[name] = time.monotonic()

    def end(self) -> dict[str, int]:
        """Wait for the living processes; return how each process ended."""
        return {name: process.wait(60) for name, process in self._processes.items()}

    def kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def told(self, name: str) -> list[dict[str, Any]]:
        # A killed process may have left half a line.
        lines = (self._directory / name).read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]


class Observer:
    """Read the ledger, and the events that Redis wrote, again and again."""

    def __init__(self, ledger: Ledger, client: redis.Redis) -> None:
        self.turns = Turns(TOTAL_MB - MARGIN_MB, TTL_MS)
        self._ledger = ledger
        self._client = client
        self._fence = 0
        self._read_to = "0"

    async def observe(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            await self.look()
            await asyncio.sleep(0.02)

    async def look(self) -> int:
        """Check that not too much is held, nobody dead stays, and nobody is held up.

        Returns Redis's time.
        """
        table = await self._ledger.table(GPU)
        assert table.held_mb <= TOTAL_MB - MARGIN_MB
        for row in (*table.leases, *table.waiters):
            spoke_at_ms = self.turns.killed_at_ms.get(row.owner, table.now_ms)
            assert table.now_ms < row.expires_at_ms <= spoke_at_ms + TTL_MS, "it outlives its process"
        assert (table.fence or 0) >= self._fence
        self._fence = table.fence or 0
        self._follow_events()
        self.turns.check(table.now_ms, {row.lease_id: row.expires_at_ms - TTL_MS for row in table.waiters})
        return table.now_ms

    async def note_death(self, owner: str) -> None:
        # This looks twice: before its second answer Redis has read everything that the dead process
        # sent.
        await self.look()
        self.turns.kill(owner, await self.look())

    def _follow_events(self) -> None:
        read: Any = self._client.xread({Keys.of("model-boss", GPU).events: self._read_to})
        for event_id, fields in read[0][1] if read else ():
            self._read_to = event_id
            self.turns.follow(fields["event"], fields["lease"], int(fields["vram_mb"]), int(fields["at_ms"]))


@pytest.mark.parametrize("for_s", [12, pytest.param(60, marks=pytest.mark.slow)])
async def test_eight_processes_share_a_gpu(own_server: RedisServer, tmp_path: Path, for_s: float) -> None:
    """The ledger never grants too much, and the dead are gone within one time to live.

    After that nobody waits for them. By Redis's clock, no living waiter whose turn it is asks in
    vain (`turns.py`). None waits for two times to live after a kill, and every living process is
    served after the last kill.
    """
    chance = random.Random(5)
    options = LedgerOptions(ttl_s=TTL_S)
    with own_server.client() as client:
        async with Ledger(own_server.url, options) as ledger:
            await ledger.set_capacity(GPU, Capacity(TOTAL_MB, MARGIN_MB))
            observer = Observer(ledger, client)
            began_at_s = time.monotonic()
            contenders = Contenders(own_server.url, tmp_path, began_at_s + for_s)
            try:
                names = chance.sample([f"client{number}" for number in range(CLIENTS)], KILLED)
                # The kills come after the first grace, and early enough for the others to be served
                # afterwards.
                times_s = sorted(chance.uniform(TTL_S + 1, for_s - 2 * TTL_S) for _ in names)
                for name, after_s in zip(names, times_s, strict=True):
                    await observer.observe(began_at_s + after_s)
                    contenders.kill(name)
                    await observer.note_death(name)
                await observer.observe(began_at_s + for_s)
                statuses = await asyncio.to_thread(contenders.end)
            finally:
                contenders.kill_all()
            assert statuses == {name: -9 if name in names else 0 for name in statuses}
            await observer.look()
            assert (observer.turns.held_mb, observer.turns.queue) == ({}, {})
            _check_served(contenders, names)
            _check_memory(contenders)
            await asyncio.sleep(TTL_S)
            assert (await ledger.table(GPU)).held_mb == 0


def _check_served(contenders: Contenders, killed: list[str]) -> None:
    last_kill_at_s = max(contenders.killed_at_s.values())
    for number in range(CLIENTS):
        name = f"client{number}"
        if name not in killed:
            held = [told["at_s"] for told in contenders.told(name) if told["event"] == "holds"]
            assert [at_s for at_s in held if at_s > last_kill_at_s], f"{name} was not served after the kills"


def _check_memory(contenders: Contenders) -> None:
    """Check that, by what the processes wrote, never more memory was in use than there is."""
    changes: list[tuple[float, int]] = []
    for number in range(CLIENTS):
        name, holding = f"client{number}", {}
        for told in contenders.told(name):
            if told["event"] == "holds":
                holding[told["lease"]] = told["vram_mb"]
                changes.append((told["at_s"], told["vram_mb"]))
            elif told["event"] == "frees":
                changes.append((told["at_s"], -holding.pop(told["lease"])))
        # The memory that it held when it was killed.
        changes += [(contenders.killed_at_s[name], -vram_mb) for vram_mb in holding.values()]
    in_use_mb = 0
    for _, change_mb in sorted(changes):
        in_use_mb += change_mb
        assert in_use_mb <= TOTAL_MB - MARGIN_MB
    assert len(changes) >= 2 * (CLIENTS - KILLED)  # each of the living was served
    assert in_use_mb == 0
