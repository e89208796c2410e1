"""With four times as many callers as are admitted, the surplus is told to come back.

Nothing else changes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.integration.load import press, resident_mb
from tests.integration.stack import RunningStack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONCURRENCY, QUEUE = 10, 6
CALLERS = 4 * (CONCURRENCY + QUEUE)
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def small_stack(
    published_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningStack]:
    """A stack that admits so few requests that the callers of a test are four times too many."""
    stack = RunningStack(
        published_repository,
        tmp_path_factory.mktemp("load"),
        AESTHETIC_MAX_CONCURRENCY=str(CONCURRENCY),
        AESTHETIC_MAX_QUEUE=str(QUEUE),
    )
    stack.start()
    try:
        yield stack
    finally:
        stack.stop()


async def _overload(stack: RunningStack, duration_s: float) -> None:
    await press(stack, callers=CALLERS, duration_s=3, deadline_s=DEADLINE_S)  # what grows once has grown
    pid = stack.frontend_pid()
    before_mb = resident_mb(pid)
    report = await press(stack, callers=CALLERS, duration_s=duration_s, deadline_s=DEADLINE_S)
    growth_mb = resident_mb(pid) - before_mb
    print(  # noqa: T201 - for docs/reliability.md
        f"\n{CALLERS} callers, load {os.getloadavg()[0]:.1f}: {report}; memory {growth_mb:+.1f} of {before_mb:.0f} MiB"
    )
    assert set(report.statuses) <= {"200", "429"}, report.statuses
    assert report.statuses["200"] > 0
    assert report.statuses["429"] > 0
    assert report.wrong == []
    assert max(report.accepted_s) < DEADLINE_S
    assert growth_mb < 32


async def test_overload(small_stack: RunningStack) -> None:
    """Every answer is 200 or 429, and every score is right.

    Memory stays flat, and each accepted request is answered within its deadline.
    """
    await _overload(small_stack, 6)


@pytest.mark.slow
async def test_overload_for_a_minute(small_stack: RunningStack) -> None:
    """The same holds for sixty seconds."""
    await _overload(small_stack, 60)
