"""A process that is kept alive, and the tasks that keep it."""

from __future__ import annotations

import asyncio
import pkgutil
import signal
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import frontend
from frontend.settings import Settings
from local.supervised import STOP_GRACE_S, Supervised, keep_running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


async def _is_ready() -> bool:
    return True


@asynccontextmanager
async def _background(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.02)


async def test_a_task_that_fails_goes_on() -> None:
    """An unexpected error is reported, and the work begins again."""
    said: list[str] = []
    begun = asyncio.Event()

    async def work() -> None:
        if not said:
            raise ZeroDivisionError("no")
        begun.set()
        await asyncio.Event().wait()

    async with _background(keep_running("the work", work, said.append, pause_s=0.01)):
        await asyncio.wait_for(begun.wait(), 60)
    assert said == ["the work stopped unexpectedly (ZeroDivisionError('no')); it goes on in 0.01 s"]


async def test_a_process_that_cannot_be_started_again(tmp_path: Path) -> None:
    """If a process cannot be restarted, its supervision goes on trying.

    It runs again as soon as it can be started.
    """
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 60\n")
    program.chmod(0o755)
    said: list[str] = []
    part = Supervised("It", [str(program)], {}, None, is_ready=_is_ready)
    await part.start()
    first = part.pid

    async def keep() -> None:
        await part.keep_alive(said.append)

    async with _background(keep_running("its supervision", keep, said.append, pause_s=0.01)):
        program.rename(tmp_path / "away")
        part.kill()
        await _until(lambda: any("FileNotFoundError" in line for line in said))
        (tmp_path / "away").rename(program)
        await _until(lambda: part.pid)
    assert part.pid != first
    assert said[0] == "It ended (killed by SIGKILL); it is started again in 0.5 s"
    await part.stop()
    assert part.pid is None


async def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    """When a process ends, its helpers end, and what it leaves is cleaned up."""
    cleaned: list[str] = []
    log = tmp_path / "log"
    part = Supervised(
        "It",
        ["sh", "-c", "sleep 60 & echo $!; wait"],
        {},
        log,
        is_ready=_is_ready,
        clean_up=lambda: cleaned.append("up"),
    )
    await part.start()
    await _until(lambda: log.exists() and log.read_text().endswith("\n"))
    helper = int(log.read_text())
    await part.stop()
    assert cleaned == ["up"]
    await _until(lambda: not _is_running(helper))


async def test_an_end_that_is_interrupted(tmp_path: Path) -> None:
    """A process that ignores SIGTERM is killed once nobody waits for its end any longer."""
    log = tmp_path / "log"
    command = ["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1; done"]
    part = Supervised("It", command, {}, log, is_ready=_is_ready)
    await part.start()
    process = part._process
    assert process is not None
    await _until(lambda: log.read_text().endswith("\n"))
    async with _background(part.stop()):
        await asyncio.sleep(0.3)
        assert part.pid is not None
    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL


def test_the_frontend_has_the_time_to_end() -> None:
    """The supervisor waits longer than the frontend may take to end.

    The frontend takes its grace for requests, and then closes its parts.
    """
    names = {"CLOSE_S", "CANCEL_S", "KILL_S"}
    modules = [
        import_module(found.name)
        for found in pkgutil.walk_packages(frontend.__path__, "frontend.")
        if not found.name.endswith("__main__")
    ]
    closing = [
        value for module in modules for name, value in vars(module).items() if name.lstrip("_") in names
    ]
    assert len(closing) == 3  # the keeper's two, and the workers'
    assert Settings().shutdown_grace_s + sum(closing) < STOP_GRACE_S


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it ended while it was looked at
        return False
