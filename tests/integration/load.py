"""Many callers at once; each answer is checked as it comes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import httpx
from PIL import Image

from tests.pictures import PHOTOGRAPHS, photograph

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.integration.stack import RunningStack

TOLERANCE: Final = 1e-5  # batch mates change the order of summation, see test_two_doors


def _encoded(name: str) -> str:
    """Encode a small version of a photograph.

    The callers share the machine with the service and must not slow it down.
    """
    file = io.BytesIO()
    Image.open(io.BytesIO(photograph(name))).convert("RGB").resize((240, 240)).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


BODIES: Final[list[dict[str, Any]]] = [
    {"prompt": "a photo", "image_base64": _encoded(name)} for name in PHOTOGRAPHS
]
_CONTENTS: Final = [json.dumps(body).encode() for body in BODIES]


@dataclass
class Report:
    """What the callers saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Wrong scores, answers that the service never gives, and broken connections."""
    accepted_s: list[float] = field(default_factory=list)
    last_failure_s: float = 0.0
    """When the last answer other than 200 and 429 came, counted from the start."""
    duration_s: float = 0.0

    def quantile_s(self, share: float) -> float:
        """Return the time within which this share of the accepted requests was answered."""
        ordered = sorted(self.accepted_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def __str__(self) -> str:
        return (
            f"{self.duration_s:.0f} s: {dict(self.statuses)}, accepted p50 {self.quantile_s(0.5):.3f} s, "
            f"p99 {self.quantile_s(0.99):.3f} s, max {max(self.accepted_s):.3f} s, "
            f"last failure at {self.last_failure_s:.1f} s"
        )


async def expected_scores(stack: RunningStack) -> list[float]:
    """Score every body alone, while nothing else happens."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=60) as client:
        return [(await client.post("/score", json=body)).json()["raw_score"] for body in BODIES]


async def press(
    stack: RunningStack,
    *,
    callers: int,
    duration_s: float,
    deadline_s: float = 20,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> Report:
    """Let this many callers ask, each again as soon as it is answered.

    No caller heeds the time in Retry-After.
    """
    expected = await expected_scores(stack)
    report = Report()
    started = time.monotonic()
    headers = {"Content-Type": "application/json", "X-Request-Timeout-Ms": str(round(deadline_s * 1000))}
    timeout = aiohttp.ClientTimeout(total=deadline_s + 20)
    connector = aiohttp.TCPConnector(limit=callers)
    # httpx would take more of a core than the service itself, so this is aiohttp.
    async with aiohttp.ClientSession(stack.url, timeout=timeout, connector=connector) as client:

        async def call(number: int) -> None:
            turn = number
            while time.monotonic() - started < duration_s:
                turn = (turn + 1) % len(BODIES)
                asked = time.monotonic()
                try:
                    async with client.post("/score", data=_CONTENTS[turn], headers=headers) as answer:
                        content = await answer.read()
                except (aiohttp.ClientError, TimeoutError) as error:
                    report.wrong.append(f"{type(error).__name__}: {error}")
                    report.statuses["broken"] += 1
                    continue
                _check(answer, content, expected[turn], time.monotonic() - asked, report)
                if answer.status not in {200, 429}:
                    report.last_failure_s = time.monotonic() - started
                if answer.status != 200:
                    await asyncio.sleep(0.05)  # far less than it was told to wait

        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(call(number))
            if meanwhile is not None:
                group.create_task(_run(meanwhile))
    report.duration_s = time.monotonic() - started
    return report


def _check(
    answer: aiohttp.ClientResponse, content: bytes, expected: float, seconds: float, report: Report
) -> None:
    report.statuses[str(answer.status)] += 1
    if answer.status == 200:
        report.accepted_s.append(seconds)
        raw_score = json.loads(content)["raw_score"]
        if abs(raw_score - expected) > TOLERANCE:
            report.wrong.append(f"{raw_score} instead of {expected}")
    elif answer.content_type != "application/problem+json":
        report.wrong.append(f"{answer.status}: {content[:200]!r}")
    elif answer.status in {429, 503} and int(answer.headers.get("Retry-After", "0")) < 1:
        report.wrong.append(f"{answer.status} without Retry-After")


async def _run(meanwhile: Callable[[], Awaitable[None]]) -> None:
    await meanwhile()


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no memory")
