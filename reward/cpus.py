"""How many CPUs this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cpus() -> int:
    """Count the CPUs of this process's affinity mask, within the cgroup's quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    if quota == "max":
        return cpus
    return max(1, min(cpus, int(quota) // int(period)))
