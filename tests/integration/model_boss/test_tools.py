"""`python -m model_boss`, as somebody types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from model_boss.__main__ import main
from model_boss.protocol import Keys
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.model_boss.servers import RedisServer

GPU = "box:0"
TTL_S = 3.0


class Shell:
    """A shell that runs the tools with one Redis."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, url: str | None = None) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if "REDIS_URL" not in name}
        process = subprocess.Popen(
            [sys.executable, "-m", "model_boss", "--ttl-s", str(TTL_S), *arguments],
            env=environment | {"MODEL_BOSS_REDIS_URL": self.server.url if url is None else url},
            cwd=self.directory,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str, url: str | None = None) -> tuple[int, str, str]:
        process = self.start(*arguments, url=url)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def hold(self, *command: str, vram_mb: int = 10, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        claim = ("--gpu", GPU, "--vram-mb", str(vram_mb), "--lease-id", "job", *options)
        return self.start("run", *claim, "--", *command)

    def leases(self) -> dict[str, str]:
        with self.server.client() as client:
            kept: Any = client.hgetall(Keys.of("model-boss", GPU).leases)
        return dict(kept)

    def ask_to_yield(self) -> None:
        with self.server.client() as client:
            key = Keys.of("model-boss", GPU).leases
            kept: Any = client.hget(key, "job")
            client.hset(key, "job", kept.replace('"active"', '"yielding"'))

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def shell(server: RedisServer, tmp_path: Path) -> Iterator[Shell]:
    """A GPU of 20 MiB in a new ledger whose grace is cut short."""
    shell = Shell(server, tmp_path)
    status, out, _ = shell.run("capacity", "--gpu", GPU, "--total-mb", "20", "--margin-mb", "2")
    assert (status, out.splitlines()[0]) == (0, "box:0: 20 MiB, margin 2, held 0, foreign 0, free 18")
    with server.client() as client:
        client.hset(Keys.of("model-boss", GPU).epoch, "grace_until_ms", "0")
    yield shell
    shell.stop()


def _until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def _python(text: str) -> tuple[str, str, str]:
    return sys.executable, "-c", text


def test_a_command_runs_under_a_lease(shell: Shell) -> None:
    """A command runs under a lease, knows it from its environment, and is in the table.

    Its exit status is passed on, and the memory is given back.
    """
    command = _python(
        "import os, time; print(os.environ['MODEL_BOSS_GPU'], os.environ['MODEL_BOSS_LEASE'],"
        " int(os.environ['MODEL_BOSS_FENCE']) > 0, flush=True); time.sleep(60)"
    )
    process = shell.hold(*command, options=("--model", "job's"))
    assert process.stdout is not None
    assert process.stdout.readline() == "box:0 job True\n"
    status, out, _ = shell.run("status")
    assert status == 0
    assert [line.split()[:1] + line.split()[2:6] for line in out.splitlines()[2:]] == [
        ["job", "job's", "10", "500", "active"]
    ]
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert shell.leases() == {}


def test_the_exit_status_of_the_command_is_passed_on(shell: Shell) -> None:
    """The exit status is the command's own, and 127 if there is no such command, as in a shell."""
    claim = ("run", "--gpu", GPU, "--vram-mb", "1", "--")
    assert shell.run(*claim, *_python("raise SystemExit(7)"))[0] == 7
    assert shell.run(*claim, "no-such-command") == (127, "", "model_boss: no-such-command: not found\n")


def test_signals_reach_the_command(shell: Shell) -> None:
    """A command that handles a signal in its own way can finish."""
    ready, done = shell.directory / "ready", shell.directory / "done"
    command = _python(
        f"import pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(done)!r}).touch(), sys.exit(3)))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        f"time.sleep(60)"
    )
    process = shell.hold(*command)
    _until(ready.exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 3
    assert done.exists()


def test_a_command_that_is_asked_to_yield_is_ended_and_then_killed(shell: Shell) -> None:
    """A command that is asked to yield gets SIGTERM.

    If it still runs after its grace it is killed, with everything it started.
    """
    ready = shell.directory / "ready"
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    command = _python(
        f"import pathlib, signal, subprocess, sys, time\n"
        f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"pathlib.Path({str(ready)!r}).write_text(str(child.pid) + ' ')\n"
        f"time.sleep(60)"
    )
    process = shell.hold(*command, options=("--grace-s", "0.5"))
    _until(lambda: ready.exists() and ready.read_text().endswith(" "))
    shell.ask_to_yield()
    assert process.wait(20) == 128 + signal.SIGKILL
    _until(lambda: not _runs(int(ready.read_text())))
    assert shell.leases() == {}


def test_a_command_does_not_outlive_the_tool(shell: Shell) -> None:
    """If the tool is killed the command ends too, because nobody renews its lease."""
    ready = shell.directory / "ready"
    command = _python(
        f"import os, pathlib, time; pathlib.Path({str(ready)!r}).write_text(f'{{os.getpid()}} '); time.sleep(60)"
    )
    process = shell.hold(*command)
    _until(lambda: ready.exists() and ready.read_text().endswith(" "))
    process.kill()
    _until(lambda: not _runs(int(ready.read_text())))


def test_a_command_is_ended_when_its_lease_is_lost(shell: Shell) -> None:
    """When the lease is lost, the command has only the safety margin to end.

    The memory may be another's already.
    """
    ready = shell.directory / "ready"
    command = _python(
        f"import pathlib, signal, time\n"
        f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        f"time.sleep(60)"
    )
    process = shell.hold(*command, options=("--grace-s", "60"))
    _until(ready.exists)
    with shell.server.client() as client:
        client.hdel(Keys.of("model-boss", GPU).leases, "job")
    assert process.wait(20) == 128 + signal.SIGKILL


def test_who_gives_up_waiting_leaves_the_queue(shell: Shell) -> None:
    """Giving up leaves the queue: `--wait-s` ends with status 75, SIGTERM with 143.

    The command is not started in either case.
    """
    holder = shell.hold(*_python("import time; time.sleep(60)"), vram_mb=18)
    _until(lambda: '"active"' in shell.leases().get("job", ""))
    claim = ("run", "--gpu", GPU, "--vram-mb", "18", "--lease-id", "late")
    time.sleep(1.2 * TTL_S)  # a command that runs is never idle
    status, out, err = shell.run(*claim, "--wait-s", "0.3", "--", "echo", "started")
    assert (status, out) == (75, "")
    assert "lease late: not granted in 0.3 s" in err
    waiting = shell.start(*claim, "--", "echo", "started")
    _until(lambda: "late" in shell.leases())
    waiting.terminate()
    assert waiting.communicate(timeout=20)[0] == ""
    assert waiting.returncode == 143
    assert set(shell.leases()) == {"job"}
    holder.terminate()


def test_refusals_and_outages_have_their_own_status(shell: Shell) -> None:
    """The status is 1 for a refusal, 69 without Redis, 2 for wrong usage.

    There is never a traceback.
    """
    claim = ("run", "--gpu", GPU, "--vram-mb", "19", "--", "true")
    status, _, err = shell.run(*claim)
    assert (status, err) == (1, "model_boss: 19 MiB claimed, box:0 can give 18 MiB\n")
    status, _, err = shell.run("status", url=f"redis://127.0.0.1:{free_ports(1)[0]}")
    assert status == 69
    assert "Traceback" not in err
    status, _, err = shell.run("status", url="")
    assert (status, err) == (2, "model_boss: no Redis: set MODEL_BOSS_REDIS_URL or give --redis-url\n")
    status, _, err = shell.run("status", url="http://one")
    assert status == 1
    assert "Traceback" not in err


def test_who_gives_up_without_redis_is_told_so(shell: Shell) -> None:
    """If Redis is away when the wait ends, the status is 69 instead of 75.

    The reason is named, and the command is not started.
    """
    claim = ("run", "--gpu", GPU, "--vram-mb", "18", "--lease-id", "job", "--wait-s", "2")
    status, out, err = shell.run(*claim, "--", "echo", "started", url=f"redis://127.0.0.1:{free_ports(1)[0]}")
    assert (status, out) == (69, "")
    assert "model_boss: lease job: not granted in 2 s: ConnectionError: " in err


def test_a_ledger_that_nobody_used_has_an_empty_table(
    server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` on an empty Redis says that no GPU is known; a GPU given by name is shown."""
    assert main(["--redis-url", server.url, "status"]) == 0
    assert capsys.readouterr().out == "no GPU is known to this ledger\n"
    assert main(["--redis-url", server.url, "status", "--gpu", GPU]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "box:0: 0 MiB held, capacity unknown"


def test_the_size_of_a_gpu_elsewhere_has_to_be_given(
    server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`capacity` without a total asks NVML, which does not see a GPU of another machine."""
    assert main(["--redis-url", server.url, "capacity", "--gpu", "elsewhere"]) == 1
    assert "give --total-mb" in capsys.readouterr().err


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False
