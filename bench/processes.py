"""The processor time and memory of a running stack, stage by stage, as Linux counts them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reward.contract import NETWORK, PREPROCESS
from tests.integration.stack import processes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.integration.stack import RunningStack

_TICK_MS: Final = 1000 / os.sysconf("SC_CLK_TCK")


def stages(stack: RunningStack) -> dict[str, list[int]]:
    """Return the processes of each stage of a request."""
    lines = processes()
    stubs = {
        model: [
            pid for pid, line in lines if "backend_stub" in line and f"{stack.repository}/{model}/" in line
        ]
        for model in (PREPROCESS.name, NETWORK.name)
    }
    decoders = [
        pid for pid, line in lines if "-m reward.decoding" in line and _parent(pid) in stubs[PREPROCESS.name]
    ]
    return {
        "frontend": [stack.frontend_pid()],
        "decoding for REST": stack.decode_worker_pids(),
        "Triton itself": [stack.triton_pid()],
        "preprocessing behind Triton": stubs[PREPROCESS.name] + decoders,
        "network": stubs[NETWORK.name],
    }


def core_ms(pids: Iterable[int]) -> float:
    """Return the processor time that processes have used so far."""
    return sum(sum(map(int, _fields(pid)[11:13])) for pid in pids) * _TICK_MS


def memory_mb(pids: Iterable[int]) -> float:
    """Return the memory of processes, shared pages divided among those that share them."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _parent(pid: int) -> int:
    return int(_fields(pid)[1])


def _fields(pid: int) -> list[str]:
    """Return what stands behind the name in /proc/PID/stat, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
