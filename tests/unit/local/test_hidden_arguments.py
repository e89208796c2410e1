"""A program's secret arguments are read by the program and by nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from local.hidden_arguments import hide

COMMAND = ["/bin/sh", "-c", 'echo "$@"; read -r _; exit 3', "sh", "--key=top secret", "--other=1"]


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ended(process: subprocess.Popen[str]) -> tuple[str, int]:
    out, _ = process.communicate("go on\n", timeout=60)
    return out, process.returncode


def test_the_program_reads_what_nobody_else_does() -> None:
    """The program gets its real arguments; its command line shows a stand-in for the secret one."""
    command, environment = hide(COMMAND, "secret")
    assert not any("secret" in word for word in command)
    process = _start(command, environment)
    assert process.stdout is not None
    first = process.stdout.readline()
    line = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[:-1]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    rest, status = _ended(process)
    assert first + rest == "--key=top secret --other=1\n"
    assert status == 3
    assert line == [*(word.encode() for word in COMMAND[:4]), b"env:HIDDEN_4", b"--other=1"]
    assert children == ""  # what helped has ended, and was buried by somebody else


def test_where_nobody_may_attach() -> None:
    """If nobody may attach, the program still starts with its arguments, which can then be read."""
    command, environment = hide(COMMAND, "secret")
    refusing = (
        "import local.hidden_arguments as module; from unittest.mock import Mock;"
        "module._LIBC = Mock(**{'ptrace.return_value': -1}); module.main()"
    )
    assert command[1:3] == ["-m", "local.hidden_arguments"]
    process = _start([sys.executable, "-c", refusing, *command[3:]], environment)
    assert _ended(process) == ("--key=top secret --other=1\n", 3)


def test_a_program_that_is_not_there() -> None:
    """A missing program is an error with a status, and no process is left waiting."""
    command, environment = hide(["/no/such/program", "secret"], "secret")
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "/no/such/program" in done.stderr
