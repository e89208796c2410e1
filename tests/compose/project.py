"""The project of docker-compose.yml, built from a clean checkout, on a real Docker daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from tests.checkout import find_links, pack_checkout
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
PROMPT: Final = "a large red square on the right"
SCORES: Final[Mapping[str, float]] = {"1-09.jpg": 2.0074775, "1-03.jpg": -1.0215990, "1-10.jpg": 0.171}
"""What the README prints for examples of this prompt."""

Scores = Mapping[str, Mapping[str, float]]
"""By version and example."""

LINKS_PORT: Final = 28765
PATIENCE_S: Final = 400.0
CALLERS: Final = 3
"""Who asks at the same time."""


class Project:
    """One Compose project with volumes, networks and a port of its own."""

    def __init__(self, checkout: Path, *, files: Sequence[str] = (), **environment: str) -> None:
        """Prepare; `files` are laid over docker-compose.yml, `environment` is the shell's."""
        self.checkout = checkout
        self.name = f"aesthetic-test-{uuid.uuid4().hex[:8]}"
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self._files = ["docker-compose.yml", *files]
        self._environment = {
            **os.environ,
            "TAG": "test",
            "BUILD_NETWORK": "host",
            "COMPOSE_PROJECT_NAME": self.name,
            "PORT": str(self.port),
            "AESTHETIC_MAX_CACHE_BYTES": "0",  # every request of a test is really scored
            **environment,
        }

    def compose(self, *arguments: str, **environment: str) -> str:
        """Run `docker compose` and return its output; a failure shows all that was said."""
        done = self.try_compose(*arguments, **environment)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr[-6000:]}"
        return done.stdout

    def try_compose(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose`; any exit status is fine."""
        done = self._run(*arguments, data=None, **environment)
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
        )

    def pipe(self, *arguments: str, data: bytes | None = None) -> bytes:
        """Run `docker compose` with `data` as its input, and return its output."""
        done = self._run(*arguments, data=data)
        assert done.returncode == 0, f"{arguments}: {done.stderr.decode(errors='replace')}"
        return done.stdout

    def _run(
        self, *arguments: str, data: bytes | None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        files = [word for file in self._files for word in ("--file", file)]
        return subprocess.run(
            ["docker", "compose", "--progress", "plain", *files, *arguments],
            cwd=self.checkout,
            env={**self._environment, **environment},
            input=data,
            capture_output=True,
            timeout=3000,
            check=False,
        )

    def up(self, *, frontends: int = 1, **environment: str) -> None:
        """Bring all up and wait until all are healthy."""
        self.compose("up", "--detach", "--wait", "--scale", f"frontend={frontends}", **environment)

    def down(self) -> list[str]:
        """Take all down; return the names of what is left of it."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans")
        label = f"label=com.docker.compose.project={self.name}"
        left = []
        for kind in (["container", "ls", "--all"], ["network", "ls"], ["volume", "ls"]):
            left += docker(*kind, "--quiet", "--filter", label).split()
        return left

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def score(self, example: str = "1-09.jpg", *, timeout_s: float = 30) -> httpx.Response:
        """Score an example through the published port."""
        with httpx.Client(timeout=timeout_s, trust_env=False) as client:
            return client.post(
                f"{self.url}/score", data={"prompt": PROMPT}, files={"image": picture(example)}
            )

    def wait_until_it_scores(self, example: str = "1-09.jpg") -> dict[str, Any]:
        """Return the first good answer."""
        last = ""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                answer = self.score(example)
            except httpx.TransportError as error:
                last = repr(error)
            else:
                last = answer.text
                if answer.status_code == 200:
                    found: dict[str, Any] = answer.json()
                    return found
            time.sleep(0.3)
        raise AssertionError(f"it does not score: {last}\n{self.compose('logs', '--tail', '20')}")

    def wait_until_healthy(self, *containers: str) -> None:
        """Wait for the health checks."""
        wait_for(lambda: all(health(one) == "healthy" for one in containers), f"{containers} are healthy")

    def ready_in_the_proxy(self) -> int:
        """Count the frontends to which the proxy sends requests."""
        shell = "exec 3<>/dev/tcp/127.0.0.1/8404; printf 'GET /stats;csv HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        table = self.compose("exec", "-T", "proxy", "bash", "-c", shell)
        return sum(line.startswith("ready,frontend") and ",UP," in line for line in table.splitlines())


@dataclass
class Load:
    """Callers that score examples without a pause, and what they were answered."""

    scores: Scores
    answers: Counter[str] = field(default_factory=Counter)
    """By `version N`, or by the code of an error."""
    wrong: list[str] = field(default_factory=list)
    """Wrong scores, and what is neither a score nor an error with a code."""
    lost: list[str] = field(default_factory=list)
    """Requests whose connection broke."""

    @property
    def failures(self) -> int:
        """Count what was not a score."""
        scored = sum(count for name, count in self.answers.items() if name.startswith("version"))
        return self.answers.total() - scored + len(self.lost)

    def take(self, answer: httpx.Response, example: str) -> None:
        """Count an answer."""
        try:
            content = answer.json()
            if answer.status_code != 200:
                self.answers[f"{answer.status_code} {content['code']}"] += 1
                return
            version = content["model_version"]
            self.answers[f"version {version}"] += 1
            if abs(content["raw_score"] - self.scores[version][example]) > 1e-3:
                self.wrong.append(f"{example}: {content['raw_score']}")
        except (ValueError, LookupError):
            self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")


@contextmanager
def load(project: Project, *, callers: int = CALLERS, scores: Scores | None = None) -> Iterator[Load]:
    """Score all the time while the block runs; `scores` are what each version gives."""
    found = Load(scores or {"1": SCORES})
    end = threading.Event()
    threads = [
        threading.Thread(target=_call, args=(project, found, end), daemon=True) for _ in range(callers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        end.set()
        for thread in threads:
            thread.join(timeout=90)


def _call(project: Project, found: Load, end: threading.Event) -> None:
    with httpx.Client(timeout=90, trust_env=False) as client:
        for example in cycle(SCORES):
            if end.is_set():
                return
            failures = found.failures
            try:
                files = {"image": picture(example)}
                answer = client.post(f"{project.url}/score", data={"prompt": PROMPT}, files=files)
            except httpx.TransportError as error:
                found.lost.append(repr(error))
            else:
                found.take(answer, example)
            if found.failures > failures:
                end.wait(0.2)


def picture(example: str) -> bytes:
    """Read one of the examples."""
    return (ROOT / "examples" / example).read_bytes()


def docker(*arguments: str) -> str:
    """Run `docker` and return its output."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def inspect(container: str) -> dict[str, Any]:
    """Return what Docker knows of a container."""
    found: dict[str, Any] = json.loads(docker("container", "inspect", container))[0]
    return found


def health(container: str) -> str:
    """Return what a container's health check says."""
    state = inspect(container)["State"]
    return str(state.get("Health", {}).get("Status", state["Status"]))


def kill(container: str) -> None:
    """Kill a container's first process, and with it all of them, as a crash does.

    `docker kill` would count as the wish that it stays down.
    """
    os.kill(inspect(container)["State"]["Pid"], signal.SIGKILL)


def wait_for(condition: Any, what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it takes too long.
    """
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not in {patience_s:g} s: {what}"
        time.sleep(0.3)


def clean_checkout(target: Path) -> Path:
    """Copy the files that git knows, as they are in the work tree."""
    packed = pack_checkout("--cached", "--others", "--exclude-standard")
    subprocess.run(["tar", "--extract", "-C", target], input=packed, check=True)
    return target


@contextmanager
def torch_links() -> Iterator[dict[str, str]]:
    """Give the build the wheels of torch that this machine's pip is told to look for, if any."""
    links = find_links()
    if not links or not list(Path(links).glob("torch-*")):
        yield {}
        return

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=links)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    # The same port each time: the address is a part of what Docker knows a built layer by.
    with ThreadingHTTPServer(("127.0.0.1", LINKS_PORT), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield {"TORCH_LINKS": f"http://127.0.0.1:{server.server_port}/"}
        finally:
            server.shutdown()
            thread.join()
