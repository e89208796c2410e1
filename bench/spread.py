"""Ratios of things measured side by side, with their spread."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def interleaved(
    works: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time each work once a round, forwards and backwards in turn; return the seconds of each.

    So what else the machine does meets all of them alike. A first round only warms up. The clock
    may be that of this process's own processor time, on a machine that others keep busy.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            started = clock()
            works[name]()
            if turn:
                seconds[name].append(clock() - started)
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Return how many times as long theirs took: the median over the rounds, and its quarters."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    low, middle, high = quarters(ratios)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def quarters(values: list[float]) -> tuple[float, float, float]:
    """Return the first quarter, the median and the third quarter."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
