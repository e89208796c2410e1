"""What other users and other machines can get from a `local up` that they can reach."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reward import deployment
from tests.integration.stack import RunningStack, processes

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN_FILES = 256


class GuardedStack(RunningStack):
    """A `local up` that listens on every address, started with few open files allowed."""

    def __init__(self, repository: Path, directory: Path) -> None:
        super().__init__(repository, directory, arguments=["--host=0.0.0.0"])
        self.command_lines: set[str] = set()
        """Everything that could be read in /proc while the stack started."""
        self.is_started = threading.Event()

    def command(self) -> list[str]:
        """Compose the command line."""
        return ["bash", "-c", f'ulimit -S -n {OPEN_FILES}; exec "$@"', "bash", *super().command()]

    def start(self) -> None:
        """Start the stack while somebody reads every command line."""
        reader = threading.Thread(target=self._read_command_lines)
        reader.start()
        try:
            super().start()
        finally:
            self.is_started.set()
            reader.join()

    def _read_command_lines(self) -> None:
        while not self.is_started.is_set():
            self.command_lines |= {line for _, line in processes()}

    def note(self) -> Path:
        """Return the note that says how its Triton is administered."""
        return deployment.running_path(self.repository)


@pytest.fixture(scope="module")
def stack(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedStack]:
    """One stack for all tests; after its end, its note is gone."""
    running = GuardedStack(published_repository, tmp_path_factory.mktemp("guarded"))
    running.start()
    try:
        yield running
    finally:
        assert running.stop() == 0
        assert not running.note().exists()


def test_the_administration_key_is_its_users_alone(stack: GuardedStack) -> None:
    """The key is in a private file, and never on a command line or in a log."""
    assert stat.S_IMODE(stack.note().stat().st_mode) == 0o600
    key = json.loads(stack.note().read_text())["admin_key"]
    assert len(key) >= 32
    assert any(f"--http-port={stack.triton_port}" in line for line in stack.command_lines)
    assert not any(key in line for line in stack.command_lines)
    assert "administration key" not in stack.output()
    log = stack.directory / "state" / "triton.log"
    assert key not in log.read_text(errors="replace") + stack.output()


def test_another_terminal_finds_triton(stack: GuardedStack) -> None:
    """`python -m export list` needs no argument to know what is loaded."""
    command = [sys.executable, "-m", "export", "--repository", str(stack.repository), "list", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AESTHETIC_")}
    listed = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    assert [version["is_loaded"] for version in json.loads(listed.stdout)["versions"]] == [True]


def test_tritons_own_door_stays_on_this_machine(stack: GuardedStack) -> None:
    """REST listens where it was asked to, but Triton only on 127.0.0.1.

    The start says why, and how to open Triton.
    """
    assert _is_open(stack.port)
    assert not any(map(_is_open, (stack.triton_port, stack.grpc_port, stack.metrics_port)))
    assert "Triton's doors stay on this machine; --triton-host opens gRPC" in stack.output()


def test_every_file_that_may_be_open_is_allowed(stack: GuardedStack) -> None:
    """The soft limit on open files is raised to the hard one, for each of the processes."""
    for process in (stack.triton_pid(), stack.frontend_pid()):
        limits = Path(f"/proc/{process}/limits").read_text().splitlines()
        soft, hard = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))
        assert soft == hard != str(OPEN_FILES)


def _is_open(port: int) -> bool:
    """Tell whether a port is open at an address that is not 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.2", port)) == 0
