"""A repository with several versions, promoted while the real Triton and frontend serve it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
import tritonclient.grpc
import tritonclient.http

from export.deploy import Deployer, Manner
from export.registry import Registry
from export.running_triton import RunningTriton
from export.trial import questions
from reward import deployment, runtimes
from reward.contract import ENSEMBLE, IMAGE, NETWORK, PROMPT, REWARD
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.integration.servers import ADMIN_KEY, START_TIMEOUT_S, Frontend, Triton
from tests.pictures import photograph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOLERANCE: Final = 1e-4  # batch mates change the order of summation

_PAUSE_S: Final = 0.05
"""Between two requests of a caller: what is changed meanwhile needs the processor, too."""
_PICTURE: Final = photograph("coffee")
_PROMPT_TEXT: Final = "a cup of coffee"


class Serving:
    """One Triton, started as `local up` starts it, and one frontend if asked for."""

    def __init__(self, repository: Path, directory: Path) -> None:
        self.repository = repository
        self.registry = Registry(repository)
        self.server = Triton(repository, directory)
        self.frontend = Frontend(repository, directory, self.server.url, max_cache_bytes=0)

    def start(self) -> None:
        """Start Triton, wait until it is ready, and write the note about it."""
        self.server.start_and_wait()
        note = {"pid": self.server.pid, "triton_url": self.server.url, "admin_key": ADMIN_KEY}
        note["repository"] = str(self.repository.resolve())
        note["triton_grpc_url"] = self.server.grpc_url
        path = deployment.running_path(self.repository)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(note))

    def start_frontend(self) -> None:
        """Start a frontend that caches no scores."""
        self.frontend.start()
        self.frontend.wait_for(f"{self.frontend.url}/health/ready")

    def stop(self) -> None:
        """Stop everything."""
        self.frontend.stop()
        self.server.stop()
        deployment.running_path(self.repository).unlink(missing_ok=True)

    @property
    def triton(self) -> RunningTriton:
        """Return an administrator of this Triton."""
        return RunningTriton(self.server.url, ADMIN_KEY, grpc_url=self.server.grpc_url, load_timeout_s=60)

    def deployer(self, *, step: Callable[[str], None] = lambda _: None, **manner: Any) -> Deployer:
        """Return a deployer that changes what is served, with short waits."""
        manner = {"who": "test", "watch_s": 0.3, "start_timeout_s": 1.0, **manner}
        return Deployer(self.registry, self.triton, Manner(**manner), step=step)

    def expected(self, version: int) -> tuple[list[float], float]:
        """Return the scores that a version gives for the fixed questions and for the picture."""
        runtime = runtimes.load(self.registry.directory(version), threads=1)
        tokens = tokenise([_PROMPT_TEXT])
        pixels = prepare(_PICTURE).pixels[None]
        picture = runtime.score(pixels, tokens.input_ids, tokens.attention_mask)
        return runtime.score(*questions()).ravel().tolist(), float(picture[0, 0])

    def serves(self) -> int:
        """Return the version that is served.

        The files, Triton's network and its ensemble must all name the same one.
        """
        content = deployment.read(self.repository)
        assert self.triton.loaded() == set(content.versions)
        assert self.triton.scored_by() == content.stable
        with self.http() as client:
            score = client.infer(ENSEMBLE.name, of_picture(tritonclient.http)).as_numpy(REWARD.name)[0, 0]
        assert abs(score - self.expected(content.stable)[1]) <= TOLERANCE
        return content.stable

    def http(self) -> Any:
        """Connect to Triton's HTTP API."""
        return tritonclient.http.InferenceServerClient(self.server.url, network_timeout=60)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m export` in another process, as a person in another terminal does."""
        command = [sys.executable, "-m", "export", "--repository", str(self.repository), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@dataclass
class Load:
    """What the callers of all APIs saw."""

    counts: dict[str, int] = field(default_factory=dict)
    """The number of answered requests, by caller."""
    versions: set[int] = field(default_factory=set)
    """The versions that answered."""
    failures: list[str] = field(default_factory=list)


@contextmanager
def under_load(serving: Serving, versions: list[int], *, rest: bool = False) -> Iterator[Load]:
    """Let callers ask through every API while the block runs, again shortly after each answer."""
    expected = {version: serving.expected(version) for version in versions}
    load = Load()
    over = threading.Event()
    callers = {
        "http, ensemble": (_ask_triton, tritonclient.http, serving.server.url, True),
        "http, network": (_ask_triton, tritonclient.http, serving.server.url, False),
        "grpc, ensemble": (_ask_triton, tritonclient.grpc, serving.server.grpc_url, True),
        "grpc, network": (_ask_triton, tritonclient.grpc, serving.server.grpc_url, False),
        **({"REST": (_ask_rest, None, serving.frontend.url, True)} if rest else {}),
    }

    def call(name: str) -> None:
        ask, library, url, is_picture = callers[name]
        with _connected(library, url) as client:
            while not over.wait(_PAUSE_S):
                try:
                    named, scores = ask(client, library, is_picture)
                except Exception as error:  # noqa: BLE001 - any is a failed request
                    load.failures.append(f"{name}: {type(error).__name__}: {error}")
                    continue
                candidates = versions if named is None else [named]
                answered = [
                    version for version in candidates if _is_of(scores, expected.get(version), is_picture)
                ]
                if answered:
                    load.versions.update(answered)
                    load.counts[name] = load.counts.get(name, 0) + 1
                else:
                    load.failures.append(f"{name}: {scores} is not version {named}'s")

    threads = [threading.Thread(target=call, args=(name,)) for name in callers]
    for thread in threads:
        thread.start()
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while len(load.counts) < len(callers) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _is_of(scores: list[float], expected: tuple[list[float], float] | None, is_picture: bool) -> bool:
    if expected is None:
        return False
    wanted = [expected[1]] if is_picture else expected[0]
    return len(scores) == len(wanted) and bool(np.allclose(scores, wanted, atol=TOLERANCE, rtol=0))


@contextmanager
def _connected(library: Any, url: str) -> Iterator[Any]:
    if library is None:
        client: Any = httpx.Client(base_url=url, timeout=60)
    else:
        client = library.InferenceServerClient(
            url, **({"network_timeout": 60} if library is tritonclient.http else {})
        )
    try:
        yield client
    finally:
        client.close()


def _ask_triton(client: Any, library: Any, is_picture: bool) -> tuple[int | None, list[float]]:
    if is_picture:  # the ensemble's own version says nothing of the network's
        answer = client.infer(ENSEMBLE.name, of_picture(library))
        return None, answer.as_numpy(REWARD.name).ravel().tolist()
    inputs = []
    for spec, array in zip(NETWORK.inputs, questions(), strict=True):
        tensor = library.InferInput(spec.name, list(array.shape), spec.dtype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    answer = client.infer(NETWORK.name, inputs)
    response = answer.get_response()
    version = response["model_version"] if isinstance(response, dict) else response.model_version
    return int(version), answer.as_numpy(REWARD.name).ravel().tolist()


def of_picture(library: Any) -> list[Any]:
    inputs = []
    for spec, value in ((IMAGE, _PICTURE), (PROMPT, _PROMPT_TEXT.encode())):
        tensor = library.InferInput(spec.name, [1, 1], spec.dtype)
        tensor.set_data_from_numpy(np.array([[value]], dtype=object))
        inputs.append(tensor)
    return inputs


def _ask_rest(client: httpx.Client, _: Any, __: bool) -> tuple[int | None, list[float]]:
    body = {"prompt": _PROMPT_TEXT, "image_base64": base64.b64encode(_PICTURE).decode()}
    answer = client.post("/score", json=body)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    return int(content["model"]["version"]), [content["raw_score"]]
