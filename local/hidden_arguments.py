"""Become a program whose secret arguments stay secret.

    python -m local.hidden_arguments PROGRAM …

Every user of a machine can read every command line in /proc, but a process's environment can only
be read by its own user. So a secret argument is given in the environment, with `env:NAME` in its
place:

    this process    starts a helper, and waits until it has attached to this process (ptrace)
    this process    executes the program; the kernel stops it before its first instruction
    the helper      makes the pointer to `env:NAME` point to the value, lets go, and ends

The value is never on the command line. If the system lets nobody attach, the program is started all
the same; then everybody can read the value on its command line.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Final, NoReturn

_MARK: Final = "env:"
_POINTER: Final = struct.Struct("@P")

# Constants of ptrace and prctl, from their manual pages.
_CONTINUE, _DETACH, _SEIZE = 7, 17, 0x4206
_TRACE_EXEC: Final = 0x10
_EXEC_STOP: Final = signal.SIGTRAP | (4 << 8)
_PR_SET_PTRACER: Final = 0x59616D61
_LIBC: Final = ctypes.CDLL(None)
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_LIBC.ptrace.restype = ctypes.c_long


def hide(command: list[str], secret: str) -> tuple[list[str], dict[str, str]]:
    """Return a command without secrets that turns into `command`, and the environment for it."""
    hidden = {f"HIDDEN_{index}": argument for index, argument in enumerate(command) if secret in argument}
    places = {argument: f"{_MARK}{name}" for name, argument in hidden.items()}
    shown = [places.get(argument, argument) for argument in command]
    return [sys.executable, "-m", "local.hidden_arguments", *shown], hidden


def main() -> NoReturn:
    """Become the program."""
    command = sys.argv[1:]
    here, there = socket.socketpair()
    program = os.getpid()
    if (child := os.fork()) == 0:
        if os.fork() == 0:  # nobody's child: the program would not bury it
            _help(program, there)
        os._exit(0)
    there.close()
    os.waitpid(child, 0)
    helper = int.from_bytes(here.recv(4), "big")
    _LIBC.prctl(_PR_SET_PTRACER, helper, 0, 0, 0)  # Yama's leave; no matter where there is no Yama
    here.send(b"?")
    if here.recv(1) != b"+":
        command = [os.environ[word[len(_MARK) :]] if word.startswith(_MARK) else word for word in command]
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"error: {command[0]} cannot be started: {error.strerror}")


def _help(program: int, asker: socket.socket) -> None:
    asker.send(os.getpid().to_bytes(4, "big"))
    asker.recv(1)
    if _LIBC.ptrace(_SEIZE, program, None, _TRACE_EXEC) < 0:
        asker.send(b"-")
        return
    asker.send(b"+")
    while True:
        _, status = os.waitpid(program, 0)
        if not os.WIFSTOPPED(status):
            return  # it has ended
        if status >> 8 == _EXEC_STOP:
            break
        _LIBC.ptrace(_CONTINUE, program, None, os.WSTOPSIG(status))
    try:
        _turn_pointers(program)
    except BaseException:
        os.kill(program, signal.SIGKILL)  # it would run with other arguments than it was given
        raise
    _LIBC.ptrace(_DETACH, program, None, None)


def _turn_pointers(program: int) -> None:
    """Make each argument `env:NAME` point to the text in the environment behind `NAME=`."""
    # By proc_pid_stat(5), these say where the stack began, with the number of arguments and the
    # pointers to them, and where arguments and environment are.
    fields = Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()
    stack, arguments, arguments_end, environment, environment_end = (
        int(fields[number - 3]) for number in (28, 48, 49, 50, 51)
    )
    memory = os.open(f"/proc/{program}/mem", os.O_RDWR)
    places = {}
    at = environment
    for entry in os.pread(memory, environment_end - environment, environment).split(b"\0"):
        name, _, _ = entry.partition(b"=")
        places[_MARK.encode() + name] = at + len(name) + 1
        at += len(entry) + 1
    words = os.pread(memory, arguments_end - arguments, arguments).split(b"\0")
    for index, word in enumerate(words):
        if word in places:
            os.pwrite(memory, _POINTER.pack(places[word]), stack + _POINTER.size * (1 + index))


if __name__ == "__main__":
    main()
