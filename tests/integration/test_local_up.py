"""`python -m local up`: one line for a fault, restarts of what dies, and nothing left behind."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from local.errors import LocalError
from local.stack import Stack, StackSettings
from local.tritonserver import SHARED_MEMORY, Ports, region_prefix
from tests.integration.stack import RunningStack
from tests.pictures import photograph
from tests.ports import free_ports
from tests.repository import CHECKOUT, copy_repository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BODY = {"prompt": "a cup", "image_base64": base64.b64encode(photograph("coffee")).decode()}


def test_it_starts_and_ends_without_a_trace(published_repository: Path, tmp_path: Path) -> None:
    """The addresses are printed once a pixel has been scored.

    SIGINT ends the stack with status 0, and no process remains.
    """
    stack = RunningStack(published_repository, tmp_path)
    stack.start()
    assert stack.url in stack.output()
    assert f"127.0.0.1:{stack.triton_port}" in stack.output()
    assert len(stack.left_over()) >= 3  # the supervisor, Triton and the frontend
    assert stack.stop(signal.SIGINT) == 0
    assert stack.left_over() == []


def test_triton_killed_is_started_again(published_repository: Path, tmp_path: Path) -> None:
    """After kill -9 of Triton, requests get 503 model_unavailable.

    Soon after they get the same score as before.
    """
    stack = RunningStack(published_repository, tmp_path)
    stack.start()
    try:
        with stack.client() as client:
            before = client.post("/score", json=BODY).json()["raw_score"]
            os.kill(stack.triton_pid(), signal.SIGKILL)
            meanwhile = client.post("/score", json=BODY)
            assert meanwhile.status_code == 503
            assert meanwhile.json()["code"] == "model_unavailable"
            assert int(meanwhile.headers["retry-after"]) >= 1
            _wait(lambda: client.get("/health/ready").status_code == 503)  # seen at once, and not by asking
            assert client.get("/health/live").status_code == 200
            _wait(lambda: client.get("/health/ready").status_code == 200)
            after = client.post("/score", json=BODY).json()["raw_score"]
        assert abs(after - before) <= 1e-6
        assert "Triton ended (killed by SIGKILL); it is started again in 0.5 s" in stack.output()
    finally:
        assert stack.stop() == 0
    assert stack.left_over() == []


class UnreadStack(RunningStack):
    """A `local up` that cannot write to its standard error."""

    def __init__(self, repository: Path, directory: Path, stderr: str) -> None:
        super().__init__(repository, directory)
        self._stderr = stderr

    def command(self) -> list[str]:
        """Compose the command line."""
        return ["bash", "-c", f'exec "$@" 2>{self._stderr}', "bash", *super().command()]


@pytest.mark.parametrize(
    "stderr", ["/dev/full", " >(true)", "&-"], ids=["a full device", "a closed pipe", "none"]
)
def test_what_cannot_be_told_ends_nothing(published_repository: Path, tmp_path: Path, stderr: str) -> None:
    """A frontend and a stub that are killed are restarted, even if that cannot be reported."""
    stack = UnreadStack(published_repository, tmp_path, stderr)
    stack.start()
    try:
        os.kill(stack.frontend_pid(), signal.SIGKILL)
        _wait(lambda: _scores(stack))
        os.kill(stack.stub_pid("image_reward_network"), signal.SIGKILL)
        assert not _scores(stack)
        _wait(lambda: _scores(stack))
        os.kill(stack.triton_pid(), signal.SIGKILL)
        _wait(lambda: _scores(stack))
    finally:
        assert stack.stop() == 0
    assert stack.left_over() == []


def test_a_killed_supervisor_takes_its_children_along(published_repository: Path, tmp_path: Path) -> None:
    """Even kill -9 of the supervisor leaves no process behind."""
    stack = RunningStack(published_repository, tmp_path)
    stack.start()
    assert stack.stop(signal.SIGKILL) == -signal.SIGKILL
    _wait(lambda: stack.left_over() == [])


def test_nothing_published(tmp_path: Path) -> None:
    """Without a published version, one line says what to do."""
    stack = RunningStack(copy_repository(tmp_path / "empty"), tmp_path)
    status, lines = _run(stack)
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: no model is published in")
    assert "make up CHECKPOINT=" in lines[0]


@pytest.mark.parametrize(
    "option", ["--port", "--triton-http-port", "--triton-grpc-port", "--triton-metrics-port"]
)
def test_a_port_that_is_taken(published_repository: Path, tmp_path: Path, option: str) -> None:
    """Each of the four ports, if taken, is named in one line with the option that changes it."""
    stack = RunningStack(published_repository, tmp_path)
    port = {
        "--port": stack.port,
        "--triton-http-port": stack.triton_port,
        "--triton-grpc-port": stack.grpc_port,
        "--triton-metrics-port": stack.metrics_port,
    }[option]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        status, lines = _run(stack)
    assert status == 1
    assert len(lines) == 1
    assert f"127.0.0.1:{port} cannot be used" in lines[0]
    assert lines[0].endswith(f"choose another with {option}")


def test_triton_that_cannot_load_the_model(published_repository: Path, tmp_path: Path) -> None:
    """A damaged version stops the start with one line that names the fault and the log."""
    repository = copy_repository(tmp_path / "model_repository")
    version = repository / "image_reward_network" / "1"
    version.mkdir()
    source = published_repository / "image_reward_network" / "1"
    for name in ("model.py", "manifest.json"):
        (version / name).write_bytes((source / name).read_bytes())
    (version / "network.onnx").write_bytes(b"no graph")
    status, lines = _run(RunningStack(repository, tmp_path))
    assert status == 1
    errors = [line for line in lines if line.startswith("error:")]
    assert len(errors) == 1
    if str(CHECKOUT).isascii():  # else the stub dies of its own traceback, and the model's words are told
        assert "Triton ended" in errors[0]
        assert "failed to load 'image_reward_network' version 1" in errors[0]
    assert "not the file that the manifest names" in errors[0]
    assert "triton.log" in errors[0]


async def test_a_stub_that_dies_at_its_start(published_repository: Path, tmp_path: Path) -> None:
    """A stub that dies at its start is reported within seconds, with its own words.

    Triton itself would wait for it without end.
    """
    port, *triton = free_ports(4)
    stack = Stack(
        StackSettings(
            repository=published_repository,
            directory=tmp_path,
            port=port,
            triton=Ports(*triton),
            frontend_log=tmp_path / "frontend.log",
        )
    )
    stub = tmp_path / "backends" / "python" / "triton_python_backend_stub"
    stub.unlink()
    shutil.copy(shutil.which("cat") or "cat", stub)  # it knows none of the names that it is given
    with pytest.raises(
        LocalError, match=r"process died at its start: .*: No such file or directory \(log: .*triton\.log\)"
    ):
        async with stack.running():
            pytest.fail("a stack without a stub is ready")
    assert _regions(stack.server_id) == []


def test_shared_memory_is_given_back(published_repository: Path, tmp_path: Path) -> None:
    """The shared memory of a killed Triton is removed before the next Triton starts.

    That of the last Triton is removed at the end.
    """
    stack = RunningStack(published_repository, tmp_path)
    server_id = f"imajin-aesthetic@{socket.gethostname()}:{stack.triton_port}"
    stack.start()
    try:
        before = _regions(server_id)
        assert before
        os.kill(stack.triton_pid(), signal.SIGKILL)
        with stack.client() as client:
            _wait(lambda: client.post("/score", json=BODY).status_code == 200)
        assert not set(before) & set(_regions(server_id))
    finally:
        assert stack.stop() == 0
    assert _regions(server_id) == []


def _scores(stack: RunningStack) -> bool:
    try:
        with stack.client() as client:
            return client.post("/score", json=BODY).status_code == 200
    except httpx.TransportError:  # the frontend itself is being started
        return False


def _regions(server_id: str) -> list[Path]:
    return list(SHARED_MEMORY.glob(f"{region_prefix(server_id)}*"))


def _run(stack: RunningStack) -> tuple[int, list[str]]:
    done = subprocess.run(stack.command(), capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def _wait(condition: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
