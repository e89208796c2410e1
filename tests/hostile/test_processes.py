"""Processes are killed or stopped, or the disk is full, while a good caller asks on."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import pytest

from local.tritonserver import SHARED_MEMORY, region_prefix
from tests.integration.load import BODIES, TOLERANCE, expected_scores
from tests.integration.stack import RunningStack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(1200)]

ROUNDS = int(os.environ.get("AESTHETIC_HOSTILE_ROUNDS", "12"))
SEED = int(os.environ.get("AESTHETIC_HOSTILE_SEED", "1"))
BACK_S = 120.0
DEADLINE_S = 10.0

PROCESSES: dict[str, Callable[[RunningStack], int]] = {
    "Triton": lambda stack: stack.triton_pid(),
    "the network's stub": lambda stack: stack.stub_pid("image_reward_network"),
    "the preprocessing's stub": lambda stack: stack.stub_pid("image_reward_preprocess"),
    "the frontend": lambda stack: stack.frontend_pid(),
    "a decode worker": lambda stack: stack.decode_worker_pids()[0],
    "the supervisor": lambda stack: stack.process.pid,
}


@dataclass
class Answers:
    """The answers of the good caller."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    longest_s: dict[str, float] = field(default_factory=dict)
    """The number of answers for each status."""


@asynccontextmanager
async def good_caller(stack: RunningStack) -> AsyncIterator[Answers]:
    """Ask ten times a second, one after the other, and compare every answer with the right one."""
    expected = await expected_scores(stack)
    answers = Answers()

    async def ask(client: aiohttp.ClientSession) -> None:
        turn = 0
        while True:
            turn = (turn + 1) % len(BODIES)
            asked_s = time.monotonic()
            status = "broken"  # as where the frontend itself is killed
            with suppress(aiohttp.ClientError, TimeoutError):
                async with client.post("/score", json=BODIES[turn]) as answer:
                    content = await answer.read()
                    status = str(answer.status)
                    answers.wrong += _faults(answer, content, expected[turn])
            answers.statuses[status] += 1
            took_s = time.monotonic() - asked_s
            answers.longest_s[status] = max(took_s, answers.longest_s.get(status, 0.0))
            await asyncio.sleep(0.1)

    timeout = aiohttp.ClientTimeout(total=2 * DEADLINE_S)
    headers = {"X-Request-Timeout-Ms": str(round(1000 * DEADLINE_S))}
    async with aiohttp.ClientSession(stack.url, timeout=timeout, headers=headers) as client:
        task = asyncio.create_task(ask(client))
        try:
            yield answers
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _faults(answer: aiohttp.ClientResponse, content: bytes, expected: float) -> Iterator[str]:
    if answer.status == 200:
        score = json.loads(content)["raw_score"]
        if abs(score - expected) > TOLERANCE:
            yield f"{score} instead of {expected}"
    elif answer.status not in {429, 503, 504}:
        yield f"{answer.status}: {content[:200]!r}"
    elif answer.status != 504 and int(answer.headers.get("Retry-After", "0")) < 1:
        yield f"{answer.status} without Retry-After"


async def test_whatever_is_killed_or_stopped_comes_back(published_repository: Path, tmp_path: Path) -> None:
    """No score is ever wrong, and in the end everything is as it was.

    As many processes run as before, and they share as much memory.
    """
    stack = RunningStack(published_repository, tmp_path, arguments=["--unready-limit-s=15"])
    stack.start()
    try:
        counts = _counts(stack)
        chance = random.Random(SEED)
        async with good_caller(stack) as answers:
            for _ in range(ROUNDS):
                await _hurt(stack, chance)
                await works_again(answers)
        print(f"\n{ROUNDS} rounds of seed {SEED}: {answers}")  # noqa: T201 - for docs/reliability.md
        assert answers.wrong == []
        await _settles_at(stack, counts)
    finally:
        assert stack.stop() == 0
    assert stack.left_over() == []
    assert _regions(stack) == []


class FullStack(RunningStack):
    """A `local up` whose logs are on a disk of its own, of one MiB."""

    def command(self) -> list[str]:
        """Compose the command line."""
        logs = self.directory / "state"
        script = f'mkdir -p "{logs}" && mount -t tmpfs -o size=1m none "{logs}" && exec "$@"'
        return ["unshare", "--mount", "bash", "-c", script, "bash", *super().command()]

    def fill(self) -> None:
        """Fill the disk to its last byte."""
        path = f"/proc/{self.process.pid}/root{self.directory}/state/filler"
        with suppress(OSError), open(path, "wb", buffering=0) as file:  # noqa: PTH123 - in its own /
            while True:
                file.write(b"\0" * 512)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
async def test_a_full_disk(published_repository: Path, tmp_path: Path) -> None:
    """While nothing can be logged, whatever is killed still comes back."""
    stack = FullStack(published_repository, tmp_path)
    stack.start()
    try:
        async with good_caller(stack) as answers:
            stack.fill()
            for name in PROCESSES:
                if name != "the supervisor":
                    os.kill(await _found(stack, name), signal.SIGKILL)
                    await asyncio.sleep(1)
                    await works_again(answers)
        print(f"\non a full disk: {answers}")  # noqa: T201 - for docs/reliability.md
        assert answers.wrong == []
    finally:
        assert stack.stop() == 0
    assert stack.left_over() == []


async def _hurt(stack: RunningStack, chance: random.Random) -> None:
    name = chance.choice(list(PROCESSES))
    process = await _found(stack, name)
    if name != "the supervisor" and chance.random() < 0.5:
        print(f"kill -9 of {name}")  # noqa: T201
        os.kill(process, signal.SIGKILL)
        await asyncio.sleep(1)
        return
    pause_s = chance.choice([0.2, 5.0, 30.0])
    print(f"stop of {name} for {pause_s} s")  # noqa: T201
    os.kill(process, signal.SIGSTOP)
    await asyncio.sleep(pause_s)
    with suppress(ProcessLookupError):  # the watchdog ended it meanwhile
        os.kill(process, signal.SIGCONT)


async def _found(stack: RunningStack, name: str) -> int:
    """Return a process's id as soon as it runs."""
    async with asyncio.timeout(BACK_S):
        while True:
            with suppress(StopIteration, IndexError):
                return PROCESSES[name](stack)
            await asyncio.sleep(0.2)


async def works_again(answers: Answers) -> None:
    """Wait for three more right answers, and until all processes are there."""
    wanted = answers.statuses["200"] + 3
    async with asyncio.timeout(BACK_S):
        while answers.statuses["200"] < wanted:  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.1)
    await asyncio.sleep(3)  # a dead stub of preprocessing is not missed by REST: the watchdog sees it


async def _settles_at(stack: RunningStack, counts: tuple[int, int]) -> None:
    async with asyncio.timeout(BACK_S):
        while _counts(stack) != counts:  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.5)


def _counts(stack: RunningStack) -> tuple[int, int]:
    """Count the stack's processes and its regions of shared memory."""
    return len(stack.left_over()), len(_regions(stack))


def _regions(stack: RunningStack) -> list[Path]:
    server_id = f"imajin-aesthetic@{socket.gethostname()}:{stack.triton_port}"
    return list(SHARED_MEMORY.glob(f"{region_prefix(server_id)}*"))
