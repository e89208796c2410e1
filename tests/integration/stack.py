"""Start and stop `python -m local up` on free ports, and call both of its APIs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

from reward.contract import ENSEMBLE, ERROR, IMAGE, NETWORK, PROMPT, REWARD
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

START_TIMEOUT_S: Final = 120.0


class RunningStack:
    """One `local up` and its addresses."""

    def __init__(
        self, repository: Path, directory: Path, *, arguments: Sequence[str] = (), **environment: str
    ) -> None:
        self.repository = repository
        self.directory = directory
        self.port, self.triton_port, self.grpc_port, self.metrics_port = free_ports(4)
        self.url = f"http://127.0.0.1:{self.port}"
        self.triton_url = f"127.0.0.1:{self.triton_port}"
        self.log = directory / "up.log"
        self._arguments = arguments
        self._environment = {
            **os.environ,
            "AESTHETIC_MAX_CACHE_BYTES": "0",  # every request of a test is really scored
            "AESTHETIC_FETCH_ALLOW": "127.0.0.1",
            "AESTHETIC_DECODE_WORKERS": "1",
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The supervisor's process."""
        assert self._process is not None
        return self._process

    def command(self) -> list[str]:
        """Compose the command line."""
        options = {
            "repository": self.repository,
            "directory": self.directory / "state",
            "port": self.port,
            "triton-http-port": self.triton_port,
            "triton-grpc-port": self.grpc_port,
            "triton-metrics-port": self.metrics_port,
        }
        composed = [f"--{key}={value}" for key, value in options.items()]
        return [sys.executable, "-m", "local", "up", *composed, *self._arguments]

    def start(self) -> None:
        """Start the stack and wait until it says that it is ready."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(), env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while "Ctrl-C" not in self.output():
            if self.process.poll() is not None or time.monotonic() > deadline:
                triton_log = self.directory / "state" / "triton.log"
                raise AssertionError(f"not ready: {self.output()}\n{triton_log.read_text()[-3000:]}")
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the stack by a signal and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Stop the watchdog while the block runs, so that it ends nothing.

        The frontend's own probes go on.
        """
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)  # for one that was under way
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def output(self) -> str:
        """Return what the stack has printed."""
        return self.log.read_text(errors="replace")

    def client(self) -> httpx.Client:
        """Return a client of the REST API."""
        return httpx.Client(base_url=self.url, timeout=60)

    def triton_pid(self) -> int:
        """Find the Triton process that listens for this stack."""
        return next(pid for pid, line in processes() if f"--http-port={self.triton_port}" in line)

    def stub_pid(self, model: str) -> int:
        """Find a process in which Triton runs the Python code of a model."""
        mark = f"{self.repository}/{model}/"
        return next(
            pid
            for pid, line in processes()
            if mark in line and f" {self.triton_pid()} " in line and "backend_stub" in line
        )

    def frontend_pid(self) -> int:
        """Find the frontend's process."""
        mark = f"AESTHETIC_PORT={self.port} "
        return next(
            pid for pid, line in processes(with_environment=True) if "-m frontend " in line and mark in line
        )

    def decode_worker_pids(self) -> list[int]:
        """Find the frontend's decode workers."""
        lines = dict(processes())
        return [
            pid
            for pid in _children(self.frontend_pid())
            if "frontend.images.decode_child" in lines.get(pid, "")
        ]

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Run the stack for the block; it ends in order, and leaves nothing behind."""
        self.start()
        try:
            yield self
        finally:
            assert self.stop() == 0
            assert self.left_over() == []

    def left_over(self) -> list[str]:
        """List the processes that belong to this stack."""
        marks = (str(self.directory), f"--http-port={self.triton_port}", f"AESTHETIC_PORT={self.port}")
        return [line for _, line in processes(with_environment=True) if any(mark in line for mark in marks)]

    def statistics(self) -> dict[str, int]:
        """Return the numbers of executions and inferences of the network, as Triton counts them."""
        with InferenceServerClient(self.triton_url) as client:
            answer = client.get_inference_statistics(NETWORK.name)["model_stats"][0]
        return {
            "executions": int(answer["execution_count"]),
            "inferences": int(answer["inference_count"]),
            "requests": int(answer["inference_stats"]["success"]["count"]),
        }

    def score_bytes(self, images: list[bytes], prompts: list[str]) -> NDArray[np.float32]:
        """Score through the ensemble `image_reward`."""
        return self.ask_ensemble(images, prompts)[0]

    def ask_ensemble(self, images: list[bytes], prompts: list[str]) -> tuple[NDArray[np.float32], list[str]]:
        """Score through the ensemble `image_reward`; return rewards, and errors beside them."""
        inputs = []
        for spec, values in ((IMAGE, images), (PROMPT, [prompt.encode() for prompt in prompts])):
            tensor = InferInput(spec.name, [len(values), 1], spec.dtype)
            tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(-1, 1))
            inputs.append(tensor)
        answer = self._infer(ENSEMBLE.name, inputs)
        errors = [text.decode() for text in answer.as_numpy(ERROR.name)[:, 0]]
        return answer.as_numpy(REWARD.name)[:, 0], errors

    def score_pixels(self, arrays: tuple[NDArray[Any], ...]) -> NDArray[np.float32]:
        """Score through `image_reward_network`."""
        inputs = []
        for spec, array in zip(NETWORK.inputs, arrays, strict=True):
            tensor = InferInput(spec.name, list(array.shape), spec.dtype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        rewards: NDArray[np.float32] = self._infer(NETWORK.name, inputs).as_numpy(REWARD.name)
        return rewards[:, 0]

    def _infer(self, model: str, inputs: list[InferInput]) -> Any:
        with InferenceServerClient(self.triton_url, network_timeout=60) as client:
            return client.infer(model, inputs)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if int(owner) == parent and state != "Z":
            found.append(int(entry.name))
    return found


def processes(*, with_environment: bool = False) -> list[tuple[int, str]]:
    """List the running processes: id and command line, with the environment if wanted."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
            if with_environment:
                line += b" " + (entry / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if line.strip():
            found.append((int(entry.name), line.replace(b"\0", b" ").decode(errors="replace")))
    return found
