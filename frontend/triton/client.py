"""What requests ask of Triton: which version is served, and the rewards of a batch."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http.aio import InferenceServerClient

from frontend.deadline import Deadline
from frontend.triton import calls
from frontend.triton.circuit import Circuit
from frontend.triton.errors import NotReady, Rejected, TimedOut, Unavailable, Unreachable
from reward import deployment, manifest, preprocess
from reward.contract import NETWORK, PRIORITY_INTERACTIVE, REWARD
from reward.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from reward.manifest import Manifest

_SERVED_TTL_S: Final = 1.0
_ASK_TIMEOUT_S: Final = 5.0
_CONNECTIONS: Final = 256


@dataclass(frozen=True)
class ServedVersion:
    """The version of the network that answers, at present or once it is loaded."""

    version: str
    manifest: Manifest
    device: str | None
    """`cpu` or `gpu`; None while the model is not loaded."""
    triton_version: str


class TritonClient:
    """A pool of connections to one Triton server; use as an async context manager."""

    def __init__(self, url: str, repository: Path) -> None:
        self._url = url
        self._repository = repository
        self._client: InferenceServerClient | None = None
        self._served: tuple[float, ServedVersion] | None = None
        self._asking: asyncio.Task[ServedVersion] | None = None
        self._metadata = Circuit()
        self._inference = Circuit()  # apart: a server whose model is dead still answers about it
        self.on_failure: Callable[[], None] = lambda: None
        """Called whenever Triton is found unavailable."""
        self._failed_at_s = -math.inf
        self.succeeded_at_s = -math.inf
        """When it last gave scores, by the monotonic clock."""

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

    @property
    def is_cut_off(self) -> bool:
        """Tell whether Triton is being left alone after repeated failures."""
        return self._metadata.is_open or self._inference.is_open

    def check(self) -> None:
        """Refuse a request before work is done for nothing.

        Raises:
            Unavailable: inferences have failed repeatedly a moment ago.
        """
        self._inference.check()

    async def served(self, deadline: Deadline) -> ServedVersion:
        """Say which version is served: Triton's own word, remembered for a second.

        Raises:
            Unavailable: Triton is down, or serves no version that this frontend can use.
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

    async def promised(self, deadline: Deadline) -> ServedVersion:
        """Say which version will be served once the model is loaded, by the repository.

        Raises:
            Unavailable: Triton is down, or that version is not one that this frontend can use.
        """
        with self._watched(), self._metadata.attempt():
            # One that was kept alive would hang while another frontend has the model loaded.
            async with InferenceServerClient(self._url, conn_timeout=None) as client:
                server = await calls.call(client.get_server_metadata, deadline)
        try:
            version = str(deployment.read(self._repository).stable)
        except VersionError as error:
            raise NotReady("no version is promoted", internal=str(error)) from error
        return ServedVersion(version, self._usable(version), None, server["version"])

    def has_succeeded_within(self, seconds: float) -> bool:
        """Tell whether scores were given so lately, and nothing has failed since."""
        return self.succeeded_at_s > max(self._failed_at_s, time.monotonic() - seconds)

    def start_afresh(self) -> None:
        """Forget what was found out about a model that has been loaded anew."""
        self._served = None
        self._metadata, self._inference = Circuit(), Circuit()

    async def score(
        self,
        pixels: NDArray[np.uint8],
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        *,
        served: ServedVersion,
        deadline: Deadline,
        request_id: str = "",
    ) -> list[float]:
        """Score a batch in one request: (B, 3, 224, 224), (B, 35), (B, 35) -> B rewards.

        Raises:
            QueueFull: Triton holds as many requests as it may.
            TimedOut: the deadline passed in Triton or on the way.
            Unavailable: Triton is down, or the version is not ready.
            Rejected: Triton refuses the tensors, or the model gives no finite score.
        """
        inputs = []
        arrays: tuple[NDArray[Any], ...] = (pixels, input_ids, attention_mask)
        for spec, array in zip(NETWORK.inputs, arrays, strict=True):
            tensor = InferInput(spec.name, list(array.shape), spec.dtype)
            tensor.set_data_from_numpy(array, binary_data=True)
            inputs.append(tensor)
        with self._watched(), self._inference.attempt():
            infer = partial(
                self._connection().infer,
                NETWORK.name,
                inputs,
                model_version=served.version,
                outputs=[InferRequestedOutput(REWARD.name, binary_data=True)],
                request_id=request_id,
                priority=PRIORITY_INTERACTIVE,
                # Triton's own limit on the wait in its queue: what is late there is not executed.
                timeout=math.ceil(deadline.remaining_s() * 1e6),
            )
            result = await calls.call(infer, deadline)
        self.succeeded_at_s = time.monotonic()
        rewards: list[float] = result.as_numpy(REWARD.name)[:, 0].tolist()
        if not np.isfinite(rewards).all():
            raise Rejected("the model gave no finite score", internal=f"rewards: {rewards}")
        return rewards

    async def _ask_in_time(self) -> ServedVersion:
        with self._watched(), self._metadata.attempt():
            try:
                served = await calls.call(self._ask, Deadline.after(_ASK_TIMEOUT_S))
            except TimedOut as error:
                raise Unreachable("the inference server does not answer") from error
        self._served = (time.monotonic(), served)
        return served

    async def _ask(self) -> ServedVersion:
        client = self._connection()
        try:
            version = str(deployment.read(self._repository).stable)
        except VersionError as error:
            raise NotReady("nothing is published", internal=str(error)) from error
        network = await client.get_model_config(NETWORK.name, version)
        server = await client.get_server_metadata()
        kinds = {group["kind"] for group in network.get("instance_group", [])}
        return ServedVersion(
            version, self._usable(version), "gpu" if "KIND_GPU" in kinds else "cpu", server["version"]
        )

    def _usable(self, version: str) -> Manifest:
        try:
            content = manifest.read(self._repository / NETWORK.name / version)
        except VersionError as error:
            raise NotReady("the served version has no readable manifest", internal=str(error)) from error
        if content.preprocessing != preprocess.digest():
            raise NotReady(
                "the served version was published for another preprocessing",
                internal=f"{content.preprocessing} is published, {preprocess.digest()} is installed",
            )
        return content

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            self._failed_at_s = time.monotonic()
            self._served = None
            self.on_failure()
            raise

    def _connection(self) -> InferenceServerClient:
        if self._client is None:
            raise RuntimeError("the TritonClient has not been entered")
        return self._client
