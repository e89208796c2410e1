"""How much memory the ledger of `local up --redis` is told that the GPU has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local.ledger import TOTAL_MB, LedgerSettings, OwnLedger
from model_boss import Capacity, DeviceMemory, InvalidClaim

if TYPE_CHECKING:
    from pathlib import Path

GPU = "here:0"


class Seen:
    """A meter that sees one GPU, or none."""

    def __init__(self, memory: DeviceMemory | None) -> None:
        self.memory = memory

    def read(self, gpu: str) -> DeviceMemory | None:
        return self.memory if gpu == GPU else None


def _ledger(directory: Path, total_mb: int | None, memory: DeviceMemory | None) -> OwnLedger:
    return OwnLedger(
        LedgerSettings(GPU, gpu_total_mb=total_mb),
        directory=directory,
        host="127.0.0.1",
        reachable="127.0.0.1",
        meter=Seen(memory),
    )


@pytest.mark.parametrize(
    ("total_mb", "memory", "capacity", "origin"),
    [
        (None, DeviceMemory(24576, 300), Capacity(24576, 512), "24576 MiB, measured"),
        (4096, DeviceMemory(24576, 300), Capacity(4096), "4096 MiB, set by hand"),
        (None, None, Capacity(TOTAL_MB), f"{TOTAL_MB} MiB, set by hand; no GPU is seen here"),
        (4096, None, Capacity(4096), "4096 MiB, set by hand; no GPU is seen here"),
    ],
)
def test_where_the_total_comes_from(
    tmp_path: Path, total_mb: int | None, memory: DeviceMemory | None, capacity: Capacity, origin: str
) -> None:
    """What was asked for comes before what is measured, and it is said which, and whether a GPU is seen."""
    ledger = _ledger(tmp_path, total_mb, memory)
    assert (ledger.capacity, ledger.origin) == (capacity, origin)


def test_a_total_that_cannot_be_meant(tmp_path: Path) -> None:
    """It is refused before anything starts."""
    with pytest.raises(InvalidClaim, match="a capacity of 0 MiB"):
        _ledger(tmp_path, 0, None)


def test_the_password_is_not_on_the_command_line(tmp_path: Path) -> None:
    """It names the file in which the password is."""
    ledger = _ledger(tmp_path, None, None)
    assert ledger.redis.command[1:] == [str(tmp_path / "redis.conf")]


async def test_a_redis_that_is_away(tmp_path: Path) -> None:
    """While Redis does not answer, the ledger is not told, and that is no error."""
    assert not await _ledger(tmp_path, None, None).is_told()
