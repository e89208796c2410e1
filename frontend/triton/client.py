"""What requests ask of Triton: whether it is there, and the rewards of a batch by one version."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http.aio import InferenceServerClient

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded
from frontend.triton import calls
from frontend.triton.batcher import Batch, Batcher
from frontend.triton.circuit import Circuit
from frontend.triton.errors import (
    NotLoaded,
    NotReady,
    Rejected,
    TimedOut,
    TooManyRows,
    TritonError,
    Unavailable,
    Unreachable,
)
from frontend.triton.served import Role, Served, ServedVersion, read_served
from reward.contract import NETWORK, PRIORITY_INTERACTIVE, REWARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

_SERVED_TTL_S: Final = 1.0
_ASK_TIMEOUT_S: Final = 5.0
_CONNECTIONS: Final = 256
_HANGS_S: Final = 10.0
"""A version that does not answer within this time counts as failing."""


@dataclass
class _Record:
    """How one version has fared."""

    circuit: Circuit
    batcher: Batcher
    failed_at_s: float = -math.inf
    succeeded_at_s: float = -math.inf


class TritonClient:
    """A pool of connections to one Triton server; use as an async context manager."""

    def __init__(
        self,
        url: str,
        repository: Path,
        *,
        new_circuit: Callable[[], Circuit] = Circuit,
        headers: Callable[[], dict[str, str] | None] = lambda: None,
    ) -> None:
        """Prepare; `headers` are asked for with each inference, and sent with it."""
        self._url = url
        self._repository = repository
        self._new_circuit = new_circuit
        self._headers = headers
        self._client: InferenceServerClient | None = None
        self._served: tuple[float, Served] | None = None
        self._asking: asyncio.Task[Served] | None = None
        self.last_served: Served | None = None
        """What was served when it was last read, for those who do not need it of this moment."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called whenever Triton or the stable version is found unavailable."""
        self.start_afresh()

    async def __aenter__(self) -> Self:
        self._client = InferenceServerClient(self._url, conn_limit=_CONNECTIONS, conn_timeout=None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        if self._client is not None:
            await self._client.close()

    def start_afresh(self) -> None:
        """Forget what is known about the model, which has been loaded anew."""
        self._served = None
        self._metadata = self._new_circuit()
        # Each version has its own: a server whose model is dead still answers questions about it.
        self._records: dict[str, _Record] = {}

    @property
    def is_cut_off(self) -> bool:
        """Tell whether Triton, or a version, is being left alone after repeated failures."""
        return self._metadata.is_open or any(one.circuit.is_open for one in self._records.values())

    def check(self, version: ServedVersion) -> None:
        """Refuse a request before work is done for nothing.

        Raises:
            Unavailable: inferences by this version have just failed repeatedly.
        """
        self._record(version).circuit.check()

    def has_succeeded_since(self, at_s: float, version: ServedVersion | None = None) -> bool:
        """Tell whether a version, or any, gave scores since then, by the monotonic clock."""
        records = self._records.values() if version is None else [self._record(version)]
        return any(record.succeeded_at_s > at_s for record in records)

    def has_succeeded_within(self, seconds: float, version: ServedVersion) -> bool:
        """Tell whether a version gave scores within this time, and has not failed since."""
        record = self._record(version)
        return record.succeeded_at_s > max(record.failed_at_s, time.monotonic() - seconds)

    async def served(self, deadline: Deadline) -> Served:
        """Return what is served if Triton is there; the answer is remembered for a second.

        Raises:
            Unavailable: Triton is down, or no version is served that this frontend can use.
            TimedOut: the deadline passed before it answered.
        """
        if self._served is not None and time.monotonic() - self._served[0] <= _SERVED_TTL_S:
            return self._served[1]
        if self._asking is None or self._asking.done():  # shared by all who need it
            self._asking = asyncio.create_task(self._ask_in_time())
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            async with deadline.timeout():
                return await asyncio.shield(self._asking)
        except TimeoutError as error:
            raise TimedOut("the deadline passed while the inference server was asked") from error

    def read_again(self, served: Served) -> Served:
        """Return what is served now, for when the remembered answer may be too old.

        Raises:
            NotReady: no version is served that this frontend can use.
        """
        found = read_served(self._repository, served.triton_version)
        self._remember(found)
        return found

    async def is_loaded(self, version: ServedVersion, deadline: Deadline) -> bool:
        """Ask Triton whether it has a version ready; no answer means that it has not."""
        try:
            async with InferenceServerClient(self._url, conn_timeout=None) as client:
                ask = partial(client.is_model_ready, NETWORK.name, version.version)
                return bool(await calls.call(ask, deadline))
        except (TritonError, DeadlineExceeded):
            return False

    async def inferences(self, version: ServedVersion) -> int | None:
        """Ask how many images a version has scored, for anybody, since it was loaded.

        Triton answers at once, whatever is being executed; None means that it does not know.
        """
        try:
            async with InferenceServerClient(self._url, conn_timeout=None) as client:
                ask = partial(client.get_inference_statistics, NETWORK.name, version.version)
                answer = await calls.call(ask, Deadline.after(_ASK_TIMEOUT_S))
            return int(answer["model_stats"][0]["inference_count"])
        except (TritonError, LookupError):
            return None

    async def score(
        self,
        pixels: NDArray[np.uint8],
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        *,
        version: ServedVersion,
        deadline: Deadline,
        max_wait_s: float = math.inf,
        request_id: str = "",
        priority: int = PRIORITY_INTERACTIVE,
    ) -> list[float]:
        """Score a batch: (B, 3, 224, 224), (B, 35), (B, 35) -> B rewards.

        It goes to Triton at once, or together with others when the version is free.

        Raises:
            QueueFull: Triton holds as many requests as it may.
            TimedOut: the deadline passed in Triton or on the way, or `max_wait_s` did.
            Unavailable: Triton is down, or the version is not ready.
            Rejected: Triton refuses the tensors, or the model gives no finite score.
        """
        until = Deadline(min(deadline.at_s, time.monotonic() + max_wait_s))
        tensors = pixels, input_ids, attention_mask
        record = self._record(version)
        try:
            return await record.batcher.score(Batch(tensors, until, priority, request_id, self._headers()))
        except TimedOut as error:
            if max_wait_s < _HANGS_S or until.at_s == deadline.at_s:
                raise
            with record.circuit.attempt(), self._recorded(version):
                raise NotReady("the version does not answer", internal=error.internal) from error

    async def _send(self, batch: Batch, version: ServedVersion) -> list[float]:
        """Score a batch by one request, or by as few in turn as Triton's largest batch allows."""
        record = self._record(version)
        rewards: list[float] = []
        while len(rewards) < len(batch):
            rows = slice(len(rewards), len(rewards) + record.batcher.max_rows)
            part = replace(batch, tensors=tuple(tensor[rows] for tensor in batch.tensors))
            try:
                with record.circuit.attempt(), self._recorded(version):
                    rewards += await self._infer(part, version)
            except TooManyRows as error:
                if error.max_rows >= len(part):
                    raise
                record.batcher.max_rows = error.max_rows
        return rewards

    async def _infer(self, batch: Batch, version: ServedVersion) -> list[float]:
        inputs = []
        for spec, array in zip(NETWORK.inputs, batch.tensors, strict=True):
            tensor = InferInput(spec.name, list(array.shape), spec.dtype)
            tensor.set_data_from_numpy(array, binary_data=True)
            inputs.append(tensor)
        infer = partial(
            self._connection().infer,
            NETWORK.name,
            inputs,
            model_version=version.version,
            outputs=[InferRequestedOutput(REWARD.name, binary_data=True)],
            request_id=batch.request_id,
            priority=batch.priority,
            # Triton's own limit on the wait in its queue. A request that is late there is not
            # executed.
            timeout=math.ceil(batch.deadline.remaining_s() * 1e6),
            headers=batch.headers,
        )
        result = await calls.call(infer, batch.deadline)
        rewards: list[float] = result.as_numpy(REWARD.name)[:, 0].tolist()
        if not np.isfinite(rewards).all():
            raise Rejected("the model gave no finite score", internal=f"rewards: {rewards}")
        return rewards

    async def _ask_in_time(self) -> Served:
        try:
            with self._metadata.attempt():
                # A connection that was kept alive would hang while a model is being loaded.
                async with InferenceServerClient(self._url, conn_timeout=None) as client:
                    try:
                        deadline = Deadline.after(_ASK_TIMEOUT_S)
                        server = await calls.call(client.get_server_metadata, deadline)
                    except TimedOut as error:
                        raise Unreachable("the inference server does not answer") from error
            served = read_served(self._repository, server["version"])
        except Unavailable:
            self.on_failure()
            raise
        self._remember(served)
        for version in self._records.keys() - {one.version for one in served.versions}:
            del self._records[version]
        return served

    def _remember(self, served: Served) -> None:
        self._served, self.last_served = (time.monotonic(), served), served

    @contextmanager
    def _recorded(self, version: ServedVersion) -> Iterator[None]:
        record = self._record(version)
        try:
            yield
        except Unavailable as error:
            record.failed_at_s = time.monotonic()
            if version.role is Role.STABLE or isinstance(error, NotLoaded):
                self._served = None  # something else may be served by now
            if version.role is Role.STABLE:
                self.on_failure()
            raise
        record.succeeded_at_s = time.monotonic()

    def _record(self, version: ServedVersion) -> _Record:
        if version.version not in self._records:
            batcher = Batcher(partial(self._send, version=version))
            self._records[version.version] = _Record(self._new_circuit(), batcher)
        return self._records[version.version]

    def _connection(self) -> InferenceServerClient:
        if self._client is None:
            raise RuntimeError("the TritonClient has not been entered")
        return self._client
