"""`python -m local up --redis`: it starts a ledger, and the frontend leases GPU memory in it."""

from __future__ import annotations

import base64
import os
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import time
from typing import TYPE_CHECKING

import pytest
import redis

from model_boss.protocol import Keys
from tests.integration.model_boss.servers import RedisServer
from tests.integration.stack import RunningStack, processes
from tests.pictures import photograph
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = {"prompt": "a cup", "image_base64": base64.b64encode(photograph("coffee")).decode()}
GPU = "test:0"
SHORT = {"AESTHETIC_MODEL_BOSS_TTL_S": "3"}
"""The grace of a ledger that has just begun is one time to live."""


class SharedStack(RunningStack):
    """A `local up --redis`."""

    def __init__(self, repository: Path, directory: Path, *arguments: str) -> None:
        (self.redis_port,) = free_ports(1)
        options = ["--redis", f"--redis-port={self.redis_port}", f"--gpu={GPU}", *arguments]
        super().__init__(repository, directory, arguments=options, **SHORT)

    @property
    def redis_url(self) -> str:
        """The ledger's URL, as the stack's directory has it."""
        return (self.directory / "state" / "redis.url").read_text().strip()

    def redis_pid(self) -> int:
        """Find the Redis of this stack."""
        mark = f":{self.redis_port}"
        return next(pid for pid, line in processes() if "redis-server" in line and mark in line)

    def status(self) -> str:
        """Return what the tool shows of the ledger."""
        return _status(self.redis_url)


def _status(url: str) -> str:
    command = [sys.executable, "-m", "model_boss", "status"]
    environment = {**os.environ, "MODEL_BOSS_REDIS_URL": url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def stack(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStack]:
    """One stack for all tests that leave it as they found it."""
    running = SharedStack(published_repository, tmp_path_factory.mktemp("shared"), "--gpu-total-mb=4096")
    running.start()
    try:
        yield running
    finally:
        running.stop()


def test_it_says_where_the_ledger_is(stack: SharedStack) -> None:
    """The start prints the ledger's address, the total and its origin, and a command to show it.

    It never prints the password, which is in a private file.
    """
    url_file = stack.directory / "state" / "redis.url"
    password = stack.redis_url.partition("//:")[2].partition("@")[0]
    assert (
        f"Ledger    redis://127.0.0.1:{stack.redis_port}, with its password in {url_file}" in stack.output()
    )
    assert f"{GPU}: 4096 MiB, set by hand" in stack.output()
    assert f"MODEL_BOSS_REDIS_URL=$(cat {url_file}) python -m model_boss status" in stack.output()
    assert "4096 MiB, margin 0" in stack.status()
    assert stat.S_IMODE(url_file.stat().st_mode) == 0o600
    assert password not in stack.output()
    assert not any(password in line for _, line in processes())


def test_the_ledger_has_begun_before_the_first_request(stack: SharedStack) -> None:
    """The ledger's grace begins with the stack, and the stack leaves nothing in its queue."""
    with redis.Redis.from_url(stack.redis_url) as client:
        assert client.hexists(Keys.of("model-boss", GPU).epoch, "grace_until_ms")
        assert client.hget(Keys.of("model-boss", GPU).epoch, "ttl_ms") == b"3000"
        assert client.zcard(Keys.of("model-boss", GPU).waiters) == 0


def test_a_time_to_live_that_is_no_number(published_repository: Path, tmp_path: Path) -> None:
    """A time to live that is not a number is refused in one line, before anything starts."""
    stack = RunningStack(published_repository, tmp_path, arguments=["--redis"])
    status, lines = _run(stack, AESTHETIC_MODEL_BOSS_TTL_S="x")
    assert status == 1
    assert lines == ["error: AESTHETIC_MODEL_BOSS_TTL_S is 'x', expected a number"]


def test_nobody_enters_without_the_password(stack: SharedStack) -> None:
    """Only who was given the ledger's URL can read and change it."""
    assert "AuthenticationError" in _status(f"redis://127.0.0.1:{stack.redis_port}")


def test_a_redis_that_dies_is_started_again(stack: SharedStack) -> None:
    """After kill -9 of Redis a new one is started, which soon knows total and holder again.

    Nothing else is ended for that.
    """
    with stack.client() as client:
        assert client.post("/score", json=BODY).status_code == 200
        others = stack.triton_pid(), stack.frontend_pid()
        first = stack.redis_pid()
        os.kill(first, signal.SIGKILL)
        _wait(lambda: "4096 MiB, margin 0" in stack.status() and " active " in stack.status())
        assert stack.redis_pid() != first
        assert "Redis ended (killed by SIGKILL); it is started again in 0.5 s" in stack.output()
        assert client.post("/score", json=BODY).status_code == 200
    assert (stack.triton_pid(), stack.frontend_pid()) == others


def test_a_total_that_was_forgotten(stack: SharedStack) -> None:
    """A ledger that has lost everything is told the total again.

    Here no holder reminds it.
    """
    with redis.Redis.from_url(stack.redis_url) as client:
        client.flushall()
    _wait(lambda: "4096 MiB, margin 0" in stack.status(), timeout_s=20)


def test_what_was_set_by_hand_stays(stack: SharedStack) -> None:
    """A total that somebody has set by hand stays while Redis lives."""
    command = [sys.executable, "-m", "model_boss", "capacity", f"--gpu={GPU}", "--total-mb"]
    environment = {**os.environ, "MODEL_BOSS_REDIS_URL": stack.redis_url}
    subprocess.run([*command, "6000"], env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    time.sleep(1.5)
    assert "6000 MiB" in stack.status()
    subprocess.run([*command, "4096"], env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_the_first_request_has_the_model_loaded(published_repository: Path, tmp_path: Path) -> None:
    """The stack is ready without the model, and the first request loads it under a lease.

    SIGTERM leaves nothing behind.
    """
    stack = SharedStack(published_repository, tmp_path)
    stack.start()
    try:
        assert (
            f"{GPU}: 8192 MiB, set by hand; no GPU is seen here" in stack.output()
            or "measured" in stack.output()
        )
        with stack.client() as client:
            assert client.get("/health/ready").status_code == 200
            assert "nobody holds a lease" in stack.status()
            assert not _has_stub(stack)
            answer = client.post("/score", json=BODY)
            assert answer.status_code == 200, answer.text
            assert client.get("/health/ready").status_code == 200
        assert _has_stub(stack)
        leases = [line for line in stack.status().splitlines() if " active " in line]
        assert len(leases) == 1
        assert f"imajin-aesthetic@{socket.gethostname()}:{stack.triton_port}" in leases[0]
    finally:
        assert stack.stop() == 0
    assert stack.left_over() == []
    assert not any(f":{stack.redis_port}" in line for _, line in processes())


def test_a_ledger_that_is_there_already(published_repository: Path, tmp_path: Path) -> None:
    """With AESTHETIC_REDIS_URL no Redis is started; the model is loaded under a lease there."""
    with RedisServer(tmp_path) as server:
        command = [sys.executable, "-m", "model_boss", "--redis-url", server.url, "capacity"]
        subprocess.run(
            [*command, f"--gpu={GPU}", "--total-mb=4096"], check=True, timeout=60, stdout=subprocess.DEVNULL
        )
        stack = RunningStack(
            published_repository, tmp_path, AESTHETIC_REDIS_URL=server.url, AESTHETIC_GPU=GPU, **SHORT
        )
        stack.start()
        try:
            assert "Ledger" not in stack.output()
            assert not _has_stub(stack)
            with stack.client() as client:
                answer = client.post("/score", json=BODY)
            assert answer.status_code == 200, answer.text
            assert " active " in _status(server.url)
        finally:
            assert stack.stop() == 0
        assert "nobody holds a lease" in _status(server.url)


def test_a_port_that_is_taken(published_repository: Path, tmp_path: Path) -> None:
    """A Redis port that is taken is named in one line with the option that changes it."""
    stack = SharedStack(published_repository, tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", stack.redis_port))
        taken.listen()
        status, lines = _run(stack)
    assert status == 1
    assert len(lines) == 1
    assert f"127.0.0.1:{stack.redis_port} cannot be used" in lines[0]
    assert lines[0].endswith("choose another with --redis-port")


def test_a_redis_that_does_not_start(published_repository: Path, tmp_path: Path) -> None:
    """The error's one line ends with the last line that Redis itself wrote."""
    stack = SharedStack(published_repository, tmp_path)
    # redis-server is looked for beside the interpreter. Here that is a link to the same interpreter
    # in another folder, beside a program that only says why it fails.
    binary = tmp_path / "bin" / "redis-server"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\necho 'no memory for this' >&2\nexit 3\n")
    binary.chmod(0o755)
    python = binary.with_name("python")
    python.symlink_to(sys.executable)
    status, lines = _run(stack, str(python), PYTHONPATH=sysconfig.get_path("purelib"))
    assert status == 1
    assert lines[-1].startswith("error: Redis ended at once (status 3): no memory for this (log: ")


def test_options_of_the_ledger_alone(published_repository: Path, tmp_path: Path) -> None:
    """Options for the ledger are refused where no ledger is started."""
    status, lines = _run(RunningStack(published_repository, tmp_path, arguments=["--gpu-total-mb=4096"]))
    assert status == 2
    assert lines[-1].endswith("--gpu and --gpu-total-mb go with --redis")


def _has_stub(stack: RunningStack) -> bool:
    try:
        stack.stub_pid("image_reward_network")
    except StopIteration:
        return False
    return True


def _run(stack: RunningStack, python: str = sys.executable, **environment: str) -> tuple[int, list[str]]:
    command, environment = [python, *stack.command()[1:]], {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def _wait(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
