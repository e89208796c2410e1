"""A command that holds a lease while it runs: how a service takes part without code."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from model_boss.lease import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from model_boss.lease import Lease

_LOG: Final = logging.getLogger("model_boss")
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


async def run_command(
    lease: Lease, command: Sequence[str], *, wait_s: float | None, grace_s: float, lost_grace_s: float
) -> int:
    """Wait for the lease, run the command, give the lease back; return the shell's exit status.

    The command runs in a process group of its own, and signals are passed on to it. If it is asked
    to yield it gets SIGTERM, and SIGKILL `grace_s` later; if the lease is lost, `lost_grace_s`
    later. Whatever it leaves behind in its group is killed, because the memory is given back.

    Raises:
        NotGranted, ClaimRefused: the command was not started.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    async with lease:
        fence = await _granted(lease, wait_s)
        if fence is None:
            return 128 + signal.SIGTERM
        claim = lease.claim
        environment = os.environ | {
            "MODEL_BOSS_GPU": claim.gpu,
            "MODEL_BOSS_LEASE": claim.lease_id,
            "MODEL_BOSS_FENCE": str(fence),
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                process_group=0,
                env=environment,
                preexec_fn=partial(_die_with, os.getpid(), prctl),
            )
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            reason = "not found" if is_missing else error.strerror
            print(f"model_boss: {command[0]}: {reason}", file=sys.stderr)  # noqa: T201
            return 127 if is_missing else 126
        loop = asyncio.get_running_loop()
        for number in _FORWARDED:
            loop.add_signal_handler(number, _signal_group, process.pid, number)
        try:
            await lease.commit()
            status = await _watch(lease, process, grace_s, lost_grace_s)
        finally:
            _signal_group(process.pid, signal.SIGKILL)
            await process.wait()
            for number in _FORWARDED:
                loop.remove_signal_handler(number)
    return status if status >= 0 else 128 - status


def _die_with(keeper: int, prctl: Callable[[int, int], int] | None) -> None:
    """Let the kernel kill the command when its keeper dies, since nobody renews its lease then."""
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:  # it died before the kernel was told
        os._exit(128 + signal.SIGKILL)


async def _granted(lease: Lease, wait_s: float | None) -> int | None:
    """Wait for the grant; return `None` if a signal ended the wait."""
    loop, waiting = asyncio.get_running_loop(), asyncio.ensure_future(lease.wait_granted(wait_s))
    loop.add_signal_handler(signal.SIGTERM, waiting.cancel)
    try:
        return await waiting
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # Ctrl-C, not SIGTERM
            raise
        return None
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _watch(
    lease: Lease, process: asyncio.subprocess.Process, grace_s: float, lost_grace_s: float
) -> int:
    exited = asyncio.ensure_future(process.wait())
    ending = asyncio.ensure_future(lease.wait_ending())
    lost = asyncio.ensure_future(lease.lost.wait())
    try:
        await asyncio.wait({exited, ending}, return_when=asyncio.FIRST_COMPLETED)
        if exited.done():
            return exited.result()
        _LOG.warning("lease %s: %s; ending the command", lease.claim.lease_id, ending.result())
        _signal_group(process.pid, signal.SIGTERM)
        if ending.result() is Ending.YIELD:
            await asyncio.wait({exited, lost}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        if lost.done() or lease.lost.is_set():
            await asyncio.wait({exited}, timeout=lost_grace_s)
        if not exited.done():
            _signal_group(process.pid, signal.SIGKILL)
        return await exited
    finally:
        for wait in (exited, ending, lost):
            wait.cancel()


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
