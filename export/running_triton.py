"""The Triton that runs on a model repository: its address, what it has loaded, and its orders.

Every call opens a connection of its own. While a load runs that came over HTTP, all HTTP
connections that were kept alive hang, also those of the frontends. So loads go over gRPC where its
address is known. The measured behaviour of Triton is in docs/decisions/gpu-keeper.md and
docs/decisions/what-is-served.md.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.errors import TritonFailed, TritonGone
from reward import deployment
from reward.contract import ADMIN_HEADER, ENSEMBLE, IN_BETWEEN, IN_BETWEEN_S, NETWORK, REWARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from reward.contract import ModelSpec

_GRPC_ADMIN_HEADER: Final = f"triton-grpc-protocol-{ADMIN_HEADER}"
_ASK_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.05
_AGAIN_S: Final = 1.0
"""A model that is ready so long after its unload was asked for has been loaded again."""


@dataclass(frozen=True)
class Counts:
    """How many requests a version has answered since it was loaded."""

    successes: int
    failures: int


def find(
    repository: Path,
    *,
    url: str = "",
    grpc_url: str = "",
    admin_key_file: Path | None = None,
    environment: Mapping[str, str],
    load_timeout_s: float = 300.0,
) -> RunningTriton | None:
    """Find the Triton of a repository: by the arguments, the environment, or the note about it.

    Whether it really runs is not checked.

    Returns:
        None if nothing says that a Triton runs.

    Raises:
        TritonFailed: the key's file cannot be read.
    """
    url = url or environment.get("AESTHETIC_TRITON_URL", "")
    grpc_url = grpc_url or environment.get("AESTHETIC_TRITON_GRPC_URL", "")
    named = environment.get("AESTHETIC_TRITON_ADMIN_KEY_FILE", "")
    key_file = admin_key_file or (Path(named) if named else None)
    note = _note(repository)
    if not url and note is None:
        return None
    try:
        key = key_file.read_text().strip() if key_file else str((note or {}).get("admin_key", ""))
    except OSError as error:
        raise TritonFailed(f"{key_file}: the administration key cannot be read: {error.strerror}") from error
    if not url:
        url, grpc_url = (
            str((note or {})["triton_url"]),
            grpc_url or str((note or {}).get("triton_grpc_url", "")),
        )
    return RunningTriton(url, key, grpc_url=grpc_url, load_timeout_s=load_timeout_s)


def environment(repository: Path) -> dict[str, str]:
    """Return this process's environment, completed by the frontends' in Triton's note."""
    noted = (_note(repository) or {}).get("environment", {})
    return {**{str(name): str(value) for name, value in dict(noted).items()}, **os.environ}


class RunningTriton:
    """One Triton server."""

    def __init__(
        self, url: str, admin_key: str = "", *, grpc_url: str = "", load_timeout_s: float = 300.0
    ) -> None:
        """Take the addresses of its APIs, `host:port`, and the key of its administration."""
        self.url = url.removeprefix("http://").rstrip("/")
        self._grpc_url = grpc_url
        self._admin_key = admin_key
        self._headers = {ADMIN_HEADER: admin_key} if admin_key else {}
        self._load_timeout_s = load_timeout_s

    def is_up(self) -> bool:
        """Tell whether it answers; it does not if nobody listens.

        Raises:
            TritonFailed: something holds the address and does not answer.
        """
        try:
            self._ask("GET", "/v2/health/live")
        except TritonGone:
            return False
        return True

    def wait_until_up(self, timeout_s: float) -> bool:
        """Wait for a Triton that is being started; tell whether it is up."""
        deadline_s = time.monotonic() + timeout_s
        while not self.is_up():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def server_id(self) -> str:
        """Return what it was started with as `--id`: the id of its lease on a shared GPU."""
        return str(json.loads(self._ask("GET", "/v2"))["name"])

    def loaded(self) -> set[int]:
        """Return the versions of the network that are ready."""
        return {version for version, state in self.states().items() if state == "READY"}

    def states(self) -> dict[int, str]:
        """Return the state of each version of the network, as Triton tells it."""
        entries = [entry for entry in self._index() if entry["name"] == NETWORK.name and "version" in entry]
        return {int(entry["version"]): entry.get("state", "") for entry in entries}

    def scored_by(self) -> int | None:
        """Return the version that the ensemble scores with; None if the ensemble is not loaded.

        -1 means the newest: Triton runs by its plain configuration.
        """
        states = {entry.get("state") for entry in self._index() if entry["name"] == ENSEMBLE.name}
        if "READY" not in states:
            return None
        config = json.loads(self._ask("GET", f"/v2/models/{ENSEMBLE.name}/config"))
        steps = config["ensemble_scheduling"]["step"]
        return next(int(step["model_version"]) for step in steps if step["model_name"] == NETWORK.name)

    def load(self, model: ModelSpec) -> None:
        """Make Triton load a model as its configuration says now; what is loaded in that way stays.

        Raises:
            TritonFailed: it does not load; what was loaded before is still loaded.
            TritonGone: Triton ended.
        """
        until_s: float | None = None
        while True:
            try:
                return self._load(model)
            except TritonFailed as error:
                # A keeper has Triton load the network by files that were not the new ones yet.
                until_s = until_s or time.monotonic() + IN_BETWEEN_S
                if IN_BETWEEN not in str(error) or time.monotonic() > until_s:
                    raise
            time.sleep(_POLL_S)
            self._load(NETWORK)

    def _load(self, model: ModelSpec) -> None:
        if self._grpc_url:
            self._load_over_grpc(model)
        else:
            self._ask("POST", f"/v2/repository/models/{model.name}/load", timeout_s=self._load_timeout_s)

    def unload(self) -> None:
        """Unload the network and the ensemble, and wait until the memory is free.

        On a shared GPU a keeper may load them again at once, for requests that wait; then they are
        unloaded again.
        """
        asked_s = self._ask_to_unload()

        def is_free(states: dict[int, str]) -> bool:
            nonlocal asked_s
            if "READY" in states.values() and time.monotonic() > asked_s + _AGAIN_S:
                asked_s = self._ask_to_unload()
                return False
            return not {"READY", "UNLOADING", "LOADING"} & set(states.values())

        self._wait_for(is_free)

    def _ask_to_unload(self) -> float:
        """Ask for it, which Triton does later; return the time."""
        for model in (ENSEMBLE, NETWORK):
            self._ask("POST", f"/v2/repository/models/{model.name}/unload")
        return time.monotonic()

    def wait_for(self, versions: Iterable[int]) -> None:
        """Wait until exactly these versions of the network are ready, and the others gone.

        Triton answers an unload at once and goes on with it; a load meanwhile would not wait for
        it.

        Raises:
            TritonFailed: they are not ready in the time that a load may take.
        """
        wanted = set(versions)

        def is_so(states: dict[int, str]) -> bool:
            ready = {version for version, state in states.items() if state == "READY"}
            return ready == wanted and "UNLOADING" not in states.values()

        self._wait_for(is_so)

    def counts(self, version: int) -> Counts:
        """Return how many requests a version has answered, and failed, since it was loaded."""
        answer = json.loads(self._ask("GET", f"/v2/models/{NETWORK.name}/versions/{version}/stats"))
        statistics = answer["model_stats"][0]["inference_stats"]
        return Counts(int(statistics["success"]["count"]), int(statistics["fail"]["count"]))

    def score(self, version: int, arrays: tuple[NDArray[Any], ...]) -> list[float]:
        """Score a batch with one version: (B, 3, 224, 224), (B, 35), (B, 35) -> B rewards.

        Raises:
            TritonFailed: it answers with an error, or not with numbers.
        """
        inputs = [
            {
                "name": spec.name,
                "shape": array.shape,
                "datatype": spec.dtype,
                "parameters": {"binary_data_size": array.nbytes},
            }
            for spec, array in zip(NETWORK.inputs, arrays, strict=True)
        ]
        header = json.dumps(
            {"inputs": inputs, "outputs": [{"name": REWARD.name, "parameters": {"binary_data": False}}]}
        ).encode()
        content = self._ask(
            "POST",
            f"/v2/models/{NETWORK.name}/versions/{version}/infer",
            body=header + b"".join(array.tobytes() for array in arrays),
            headers={"Inference-Header-Content-Length": str(len(header))},
            timeout_s=self._load_timeout_s,
        )
        try:
            scores: list[float] = json.loads(content)["outputs"][0]["data"]
        except (ValueError, KeyError) as error:
            raise TritonFailed(f"version {version} does not answer with numbers") from error
        if not np.isfinite(scores).all():
            raise TritonFailed(f"version {version} gives scores that are no numbers: {scores}")
        return scores

    def _load_over_grpc(self, model: ModelSpec) -> None:
        # Needed by a promotion alone, and slow to import; after a fork, too, as gRPC wants it.
        from tritonclient.grpc import InferenceServerClient  # noqa: PLC0415
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415

        headers = {_GRPC_ADMIN_HEADER: self._admin_key} if self._admin_key else None
        try:
            with InferenceServerClient(self._grpc_url) as client:
                client.load_model(model.name, headers=headers, client_timeout=self._load_timeout_s)
        except InferenceServerException as error:
            if "UNAVAILABLE" in str(error.status()):
                raise TritonGone(f"no Triton answers at {self._grpc_url} ({error.message()})") from error
            raise TritonFailed(_first_line(str(error.message()))) from error

    def _wait_for(self, is_so: Callable[[dict[int, str]], bool]) -> None:
        deadline_s = time.monotonic() + self._load_timeout_s
        while not is_so(states := self.states()):
            if time.monotonic() > deadline_s:
                raise TritonFailed(f"Triton's versions are {states} after {self._load_timeout_s:g} s")
            time.sleep(_POLL_S)

    def _index(self) -> list[dict[str, Any]]:
        index: list[dict[str, Any]] = json.loads(self._ask("POST", "/v2/repository/index"))
        return index

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _ASK_TIMEOUT_S,
    ) -> bytes:
        connection = http.client.HTTPConnection(self.url, timeout=timeout_s)
        try:
            connection.request(method, path, body=body, headers={**self._headers, **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError as error:
            raise TritonFailed(f"Triton at {self.url} does not answer within {timeout_s:g} s") from error
        except (ConnectionError, http.client.HTTPException) as error:
            raise TritonGone(f"no Triton answers at {self.url} ({error or 'it ended'})") from error
        except OSError as error:
            raise TritonFailed(f"Triton at {self.url} cannot be reached: {error}") from error
        finally:
            connection.close()
        if answer.status in {401, 403}:
            raise TritonFailed(
                f"Triton at {self.url} refuses to be administered: name its key with --admin-key-file"
            )
        if answer.status != http.HTTPStatus.OK:
            raise TritonFailed(_reason(content) or f"Triton answers {path} with status {answer.status}")
        return content


def _note(repository: Path) -> dict[str, Any] | None:
    """Read the note of whoever keeps Triton running, unless that process has ended."""
    try:
        note: dict[str, Any] = json.loads(deployment.running_path(repository).read_text())
        with suppress(PermissionError):  # it is there, and another user's
            os.kill(int(note["pid"]), 0)
        # A copied folder brings a note along that is about the Triton of the original.
        return note if note["repository"] == str(repository.resolve()) else None
    except (OSError, ValueError, KeyError):
        return None


def _reason(content: bytes) -> str:
    """Return the first line of Triton's own error; a traceback follows it."""
    try:
        return _first_line(str(json.loads(content)["error"]))
    except (ValueError, KeyError, TypeError):
        return ""


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0]
