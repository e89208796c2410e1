"""`TritonScorer`: many images through Triton's own door, as a dataset or a reward function wants it.

pip install 'imajin-aesthetic-client[triton]'

with TritonScorer("127.0.0.1:8001") as scorer:
rewards = scorer.score(paths, prompts)   # numpy, float32, a reward for each row
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from imajin_aesthetic_client.errors import AestheticError, InvalidRequest, error_of
from imajin_aesthetic_client.exchange import too_late
from imajin_aesthetic_client.images import ImageLike, file_bytes
from imajin_aesthetic_client.retries import Retries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType, TracebackType
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["RowsFailed", "Scores", "TritonScorer"]

Row: TypeAlias = tuple[int, ImageLike, str]

MODEL: Final = "image_reward"
BULK_PRIORITY: Final = 2
"""Behind interactive callers."""
_CODES: Final = {
    "INVALID_ARGUMENT": ("invalid_request", False),
    "400": ("invalid_request", False),
    "NOT_FOUND": ("model_unavailable", False),
    "404": ("model_unavailable", False),
    "UNAVAILABLE": ("model_unavailable", True),
    "502": ("model_unavailable", True),
    "503": ("model_unavailable", True),
    "RESOURCE_EXHAUSTED": ("overloaded", True),
    "429": ("overloaded", True),
    "DEADLINE_EXCEEDED": ("deadline_exceeded", False),
    "504": ("deadline_exceeded", False),
}


@dataclass(frozen=True)
class Scores:
    """What became of every row."""

    rewards: NDArray[np.float32]
    """(N,), NaN where a row failed."""
    errors: dict[int, AestheticError] = field(default_factory=dict)
    """Why, by the row's number."""


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
        max_rows: rows of one request; by default as many as the server takes.
        timeout_s: how long one request may take, with its retries.
        retries: how often a request is sent, and how long it waits in between.
        model_version: by default the one that the server serves.
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
        model_version: str = "",
        ssl: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:
        if max_in_flight < 1 or (max_rows is not None and max_rows < 1) or timeout_s <= 0:
            raise ValueError("max_in_flight, max_rows and timeout_s must be positive")
        self._library = _library(protocol)
        self._url, self._protocol, self._ssl = url, protocol, ssl
        self._max_rows, self._timeout_s, self._retries = max_rows, timeout_s, retries
        self._model_version, self._headers = model_version, headers
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
        max_rows = self._max_rows or self._threads.submit(self._served_rows).result()
        chunks = [rows[start : start + max_rows] for start in range(0, len(rows), max_rows)]
        for found in self._threads.map(self._score_rows, chunks):
            for index, outcome in found:
                if isinstance(outcome, AestheticError):
                    errors[index] = outcome
                else:
                    rewards[index] = outcome
        return Scores(rewards, errors)

    def close(self) -> None:
        """Wait for the requests in flight and close the connections."""
        self._threads.shutdown()
        for client in self._clients:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _score_rows(self, rows: list[Row]) -> list[tuple[int, float | AestheticError]]:
        """Score rows; where Triton refuses the request for one of them, each half by itself."""
        files: list[bytes] = []
        unreadable: list[tuple[int, float | AestheticError]] = []
        readable: list[Row] = []
        for row in rows:
            try:
                files.append(file_bytes(row[1]))
                readable.append(row)
            except (OSError, TypeError) as error:
                unreadable.append((row[0], error_of("invalid_request", str(error))))
        return unreadable + self._score_files(readable, files)

    def _score_files(self, rows: list[Row], files: list[bytes]) -> list[tuple[int, float | AestheticError]]:
        if not rows:
            return []
        try:
            prompts = [prompt for _, _, prompt in rows]
            rewards = self._with_retries(lambda remaining_s: self._infer(files, prompts, remaining_s))
        except InvalidRequest as error:
            if len(rows) == 1:
                return [(rows[0][0], error)]
            half = len(rows) // 2
            return self._score_files(rows[:half], files[:half]) + self._score_files(rows[half:], files[half:])
        except AestheticError as error:
            return [(index, error) for index, _, _ in rows]
        nothing = error_of("internal", "the network gave no number")
        return [
            (index, float(reward) if np.isfinite(reward) else nothing)
            for (index, _, _), reward in zip(rows, rewards, strict=True)
        ]

    def _infer(self, files: list[bytes], prompts: list[str], remaining_s: float) -> NDArray[np.float32]:
        inputs = []
        for name, values in (("IMAGE", files), ("PROMPT", [prompt.encode() for prompt in prompts])):
            tensor = self._library.InferInput(name, [len(values), 1], "BYTES")
            tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(-1, 1))
            inputs.append(tensor)
        answer = self._client().infer(
            MODEL,
            inputs,
            model_version=self._model_version,
            outputs=[self._library.InferRequestedOutput("REWARD")],
            priority=BULK_PRIORITY,
            headers=self._headers,
            timeout=int(remaining_s * 1_000_000),  # in Triton's queue
            **({"client_timeout": remaining_s} if self._protocol == "grpc" else {}),
        )
        rewards: NDArray[np.float32] = answer.as_numpy("REWARD")[:, 0]
        return rewards

    def _served_rows(self) -> int:
        """Ask how many rows one request may have."""
        config = self._with_retries(
            lambda _: self._client().get_model_config(MODEL, self._model_version, headers=self._headers)
        )
        return max(
            1, int(config["max_batch_size"] if isinstance(config, dict) else config.config.max_batch_size)
        )

    def _with_retries(self, ask: Callable[[float], Any]) -> Any:  # noqa: ANN401 - whatever it asks for
        """Ask, with the seconds that are left, until there is an answer or no more attempt is allowed."""
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
                failure = error_of("connection_failed", str(error) or type(error).__name__, retryable=True)
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


def _library(protocol: str) -> ModuleType:
    if protocol == "grpc":
        import tritonclient.grpc as library  # noqa: PLC0415 - only the one that is used
    elif protocol == "http":
        import tritonclient.http as library  # noqa: PLC0415
    else:
        raise ValueError("protocol is grpc or http")
    return library  # type: ignore[no-any-return]


def _failure(status: str, detail: str) -> AestheticError:
    """Translate what Triton says; gRPC names its codes, HTTP has statuses."""
    code, retryable = _CODES.get(status.removeprefix("StatusCode."), ("internal", False))
    return error_of(code, detail, retryable=retryable)
