"""`TritonScorer`: many images through Triton's own API, for datasets and reward functions.

It needs the extra `triton` (`pip install 'imajin-aesthetic-client[triton]'`):

    with TritonScorer("127.0.0.1:8001") as scorer:
        rewards = scorer.score(paths, prompts)  # numpy, float32, a reward for each row
"""

from __future__ import annotations

import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from imajin_aesthetic_client.errors import (
    AestheticError,
    ConnectionFailed,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
)
from imajin_aesthetic_client.exchange import too_late
from imajin_aesthetic_client.images import ImageLike, file_bytes
from imajin_aesthetic_client.retries import Retries
from imajin_aesthetic_client.triton_doors import ENSEMBLE, NETWORK, Door, FileDoor, PixelDoor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType, TracebackType
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["RowsFailed", "Scores", "TritonScorer"]

Row: TypeAlias = tuple[int, ImageLike, str]
Prepared: TypeAlias = tuple[int, Any, str]
Outcome: TypeAlias = "tuple[int, float | AestheticError]"

BULK_PRIORITY: Final = 2
"""Behind interactive callers."""
_FAILURES: Final[dict[str, tuple[type[AestheticError], bool]]] = {
    "INVALID_ARGUMENT": (InvalidRequest, False),
    "400": (InvalidRequest, False),
    "NOT_FOUND": (ModelUnavailable, False),
    "404": (ModelUnavailable, False),
    "UNAVAILABLE": (ModelUnavailable, True),
    "502": (ModelUnavailable, True),
    "503": (ModelUnavailable, True),
    "RESOURCE_EXHAUSTED": (Overloaded, True),
    "429": (Overloaded, True),
    "DEADLINE_EXCEEDED": (DeadlineExceeded, False),
    "504": (DeadlineExceeded, False),
}
"""The error of each status, and whether to ask again."""


@dataclass(frozen=True)
class Scores:
    """What became of every row."""

    rewards: NDArray[np.float32]
    """(N,), NaN where a row failed."""
    errors: dict[int, AestheticError] = field(default_factory=dict)
    """Why, by the row's number."""


@dataclass(frozen=True)
class _Served:
    max_rows: int
    version: str
    tells_errors: bool
    """Whether a row that fails has its reason in the output ERROR, and fails no other."""


class RowsFailed(AestheticError):
    """Some rows have no reward; `scores` has those of the others."""

    def __init__(self, scores: Scores) -> None:
        row, error = min(scores.errors.items())
        super().__init__(
            f"{len(scores.errors)} of {len(scores.rewards)} rows failed; row {row}: {error.detail}",
            code=error.code,
            retryable=any(error.retryable for error in scores.errors.values()),
        )
        self.scores = scores

    def __reduce__(self) -> tuple[type[RowsFailed], tuple[Scores]]:
        return RowsFailed, (self.scores,)


class TritonScorer:
    """Scores any number of rows, several requests at a time; threads may share it.

    Files are read when their request is sent, so memory holds those of the requests in flight.

    Args:
        url: `host:port` of Triton, 8001 for gRPC, 8000 for HTTP.
        protocol: which of the two.
        max_in_flight: requests at a time.
        max_rows: rows of one request at most; never more than the server takes.
        timeout_s: how long one request may take, with its retries.
        retries: how often a request is sent, and how long it waits in between.
        decode_processes: decode the images in so many processes here, and send pixels: for a Triton
            whose own decoders are what everybody waits for. Needs the package `imajin-aesthetic`,
            and a script whose main part stands under `if __name__ == "__main__"`.
        ssl: whether the connection is encrypted.
        headers: what goes with every request.
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        *,
        protocol: Literal["grpc", "http"] = "grpc",
        max_in_flight: int = 4,
        max_rows: int | None = None,
        timeout_s: float = 120.0,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        decode_processes: int = 0,
        ssl: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:
        if max_in_flight < 1 or (max_rows is not None and max_rows < 1) or timeout_s <= 0:
            raise ValueError("max_in_flight, max_rows and timeout_s must be positive")
        self._library = _library(protocol)
        self._url, self._protocol, self._ssl = url, protocol, ssl
        self._max_in_flight, self._max_rows = max_in_flight, max_rows
        self._timeout_s, self._retries = timeout_s, retries
        self._headers = headers
        self._door: Door = PixelDoor(decode_processes) if decode_processes else FileDoor()
        self._threads = ThreadPoolExecutor(max_in_flight, thread_name_prefix="triton-scorer")
        self._of_thread = threading.local()  # the HTTP client belongs to the thread that made it
        self._clients: list[Any] = []
        self._lock = threading.Lock()

    def score(self, images: Iterable[ImageLike], prompts: str | Sequence[str]) -> NDArray[np.float32]:
        """Return the reward of every image for its prompt, or for the one prompt of all: (N,).

        Raises:
            RowsFailed: some have none; it has those of the others.
        """
        scores = self.score_each(images, prompts)
        if scores.errors:
            raise RowsFailed(scores)
        return scores.rewards

    def score_each(self, images: Iterable[ImageLike], prompts: str | Sequence[str]) -> Scores:
        """Return the rewards, NaN where a row failed, and the errors of those rows.

        Raises:
            ValueError: there are not as many prompts as images.
            AestheticError: the server does not even say how many rows it takes.
        """
        images = list(images)
        prompts = [prompts] * len(images) if isinstance(prompts, str) else list(prompts)
        if len(prompts) != len(images):
            raise ValueError(f"{len(images)} images and {len(prompts)} prompts")
        rewards = np.full(len(images), np.nan, np.float32)
        errors: dict[int, AestheticError] = {}
        if not images:
            return Scores(rewards)
        rows: list[Row] = [
            (index, image, prompt) for index, (image, prompt) in enumerate(zip(images, prompts, strict=True))
        ]
        served = self._threads.submit(self._served).result()
        # Few rows are shared out, too: Triton decodes several requests side by side.
        max_rows = min(
            self._max_rows or served.max_rows, served.max_rows, math.ceil(len(rows) / self._max_in_flight)
        )
        chunks = [rows[start : start + max_rows] for start in range(0, len(rows), max_rows)]
        for found in self._threads.map(lambda chunk: self._score_rows(chunk, served), chunks):
            for index, outcome in found:
                if isinstance(outcome, AestheticError):
                    errors[index] = outcome
                else:
                    rewards[index] = outcome
        return Scores(rewards, errors)

    def close(self) -> None:
        """Wait for the requests in flight and close the connections."""
        self._threads.shutdown()
        self._door.close()
        for client in self._clients:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _score_rows(self, rows: list[Row], served: _Served) -> list[Outcome]:
        outcomes: list[Outcome] = []
        readable: list[Row] = []
        files: list[bytes] = []
        for row in rows:
            try:
                files.append(file_bytes(row[1]))
                readable.append(row)
            except (OSError, TypeError) as error:
                outcomes.append((row[0], InvalidRequest(str(error))))
        prepared: list[Prepared] = []
        for (index, _, prompt), found in zip(readable, self._door.prepare(files), strict=True):
            if isinstance(found, AestheticError):
                outcomes.append((index, found))
            else:
                prepared.append((index, found, prompt))
        return outcomes + self._score_prepared(prepared, served)

    def _score_prepared(self, rows: list[Prepared], served: _Served) -> list[Outcome]:
        """Score rows; where Triton refuses the request for one of them, each half by itself."""
        if not rows:
            return []
        try:
            rewards, errors = self._with_retries(lambda remaining_s: self._infer(rows, served, remaining_s))
        except InvalidRequest as error:
            if len(rows) == 1:
                return [(rows[0][0], error)]
            half = len(rows) // 2
            return self._score_prepared(rows[:half], served) + self._score_prepared(rows[half:], served)
        except AestheticError as error:
            return [(index, error) for index, _, _ in rows]
        return [
            (index, _outcome(float(reward), error))
            for (index, _, _), reward, error in zip(rows, rewards, errors, strict=True)
        ]

    def _infer(
        self, rows: list[Prepared], served: _Served, remaining_s: float
    ) -> tuple[NDArray[np.float32], list[bytes]]:
        inputs = []
        outputs = ["REWARD", *(["ERROR"] if served.tells_errors else [])]
        prepared, prompts = [item for _, item, _ in rows], [prompt for _, _, prompt in rows]
        for name, kind, values in self._door.tensors(prepared, prompts):
            tensor = self._library.InferInput(name, list(values.shape), kind)
            tensor.set_data_from_numpy(values)
            inputs.append(tensor)
        answer = self._client().infer(
            self._door.model,
            inputs,
            model_version=served.version,
            outputs=[self._library.InferRequestedOutput(name) for name in outputs],
            priority=BULK_PRIORITY,
            headers=self._headers,
            timeout=int(remaining_s * 1_000_000),  # in Triton's queue
            **({"client_timeout": remaining_s} if self._protocol == "grpc" else {}),
        )
        errors = answer.as_numpy("ERROR")[:, 0].tolist() if served.tells_errors else [b""] * len(rows)
        return answer.as_numpy("REWARD")[:, 0], errors

    def _served(self) -> _Served:
        """Ask how many rows a request may have, and what the ensemble scores with and tells."""
        options = {"as_json": True} if self._protocol == "grpc" else {}
        config = self._with_retries(
            lambda _: self._client().get_model_config(ENSEMBLE, headers=self._headers, **options)
        )
        config = config.get("config", config)
        steps = {step["model_name"]: step for step in config["ensemble_scheduling"]["step"]}
        version = str(steps[NETWORK].get("model_version", "-1"))
        is_named = self._door.model == NETWORK and version != "-1"
        outputs = {output["name"] for output in config["output"]}
        return _Served(
            max(1, int(config["max_batch_size"])),
            version if is_named else "",
            tells_errors=self._door.model == ENSEMBLE and "ERROR" in outputs,
        )

    def _with_retries(self, ask: Callable[[float], Any]) -> Any:  # noqa: ANN401 - whatever it asks for
        """Ask, with the seconds that are left, until an answer comes or no attempt is left."""
        ends_at = time.monotonic() + self._timeout_s
        attempt = 1
        while True:
            try:
                return ask(max(0.001, ends_at - time.monotonic()))
            except self._library.InferenceServerException as error:
                failure = _failure(str(error.status()), str(error.message()))
            except TimeoutError:
                raise too_late() from None
            except OSError as error:  # the HTTP client lets it through
                failure = ConnectionFailed(str(error) or type(error).__name__, retryable=True)
            wait_s = self._retries.wait_s(attempt, None, random.random())  # noqa: S311 - jitter
            is_last = attempt == self._retries.max_attempts or time.monotonic() + wait_s >= ends_at
            if is_last or not failure.retryable:
                raise failure
            time.sleep(wait_s)
            attempt += 1

    def _client(self) -> Any:  # noqa: ANN401 - of either protocol
        client = getattr(self._of_thread, "client", None)
        if client is None:
            options = {} if self._protocol == "grpc" else {"network_timeout": self._timeout_s}
            client = self._library.InferenceServerClient(self._url, ssl=self._ssl, **options)
            self._of_thread.client = client
            with self._lock:
                self._clients.append(client)
        return client


def _outcome(reward: float, error: bytes) -> float | AestheticError:
    if error:
        return InvalidRequest(error.decode(errors="replace"))
    return reward if np.isfinite(reward) else Internal("the network gave no number")


def _library(protocol: str) -> ModuleType:
    if protocol == "grpc":
        import tritonclient.grpc as library  # noqa: PLC0415 - only the one that is used
    elif protocol == "http":
        import tritonclient.http as library  # noqa: PLC0415
    else:
        raise ValueError("protocol is grpc or http")
    return library  # type: ignore[no-any-return]


def _failure(status: str, detail: str) -> AestheticError:
    """Translate what Triton says: gRPC names its codes, HTTP has statuses."""
    kind, retryable = _FAILURES.get(status.removeprefix("StatusCode."), (Internal, False))
    return kind(detail, retryable=retryable)
