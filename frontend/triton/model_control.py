"""Triton's explicit model control: network and ensemble are loaded and unloaded together.

The order of the calls follows from what Triton 2.51 was measured to do
(docs/decisions/gpu-keeper.md):

- Loading the ensemble loads the network with it.
- An unload returns at once and goes on. A load called meanwhile does not wait for it, and has
  two instances in memory.
- While a load runs, connections kept alive hang, so every call opens a connection of its own.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from tritonclient.http.aio import InferenceServerClient

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded
from frontend.triton import calls
from frontend.triton.errors import NotReady, TimedOut, TritonError, Unavailable, Unreachable
from frontend.triton.state import ModelState
from reward.contract import ADMIN_HEADER, ENSEMBLE, IN_BETWEEN, IN_BETWEEN_S, NETWORK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

    from reward.contract import ModelSpec

T = TypeVar("T")

_ASK_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05
_IN_MEMORY: Final = frozenset({"READY", "UNLOADING"})


class ModelControl:
    """The administration of one Triton server."""

    def __init__(
        self,
        url: str,
        admin_key: str | None,
        *,
        load_timeout_s: float,
        served: Callable[[], Collection[int]] = tuple,
    ) -> None:
        """Take the address of Triton's HTTP API, `host:port`.

        Args:
            url: the address.
            admin_key: the key of its administration.
            load_timeout_s: how long a load or an unload may take.
            served: the versions that requests are sent to; if it names none, any will do.
        """
        self.loaded: frozenset[int] = frozenset()
        """The versions of the network that were in memory at the last look.

        Not those on their way: whoever loads them has asked for their memory.
        """
        self._url = url
        self._served = served
        self._headers = {} if admin_key is None else {ADMIN_HEADER: admin_key}
        self._load_timeout_s = load_timeout_s

    async def server_id(self) -> str:
        """Return what Triton was started with as `--id`.

        Raises:
            Unavailable: Triton cannot be reached.
        """
        metadata = await self._ask(lambda client: client.get_server_metadata())
        name: str = metadata["name"]
        return name

    async def look(self, timeout_s: float = _ASK_TIMEOUT_S) -> ModelState:
        """Return the state of the network, and of the ensemble over it.

        It is ready if all served versions are. If a promotion loads or unloads another version
        beside them, that does not change the state.

        Raises:
            Unavailable: Triton cannot be reached, or refuses to be administered.
        """
        return await self._look(Deadline.after(timeout_s))

    async def last_inference_ms(self, timeout_s: float = _ASK_TIMEOUT_S) -> int:
        """Return when the network last ran, by Triton's clock; 0 if not since it was loaded.

        Raises:
            Unavailable: Triton cannot be reached, or the network is not loaded.
        """
        deadline = Deadline.after(timeout_s)
        answer = await self._ask(lambda client: client.get_inference_statistics(NETWORK.name), deadline)
        return max((int(entry.get("last_inference", 0)) for entry in answer["model_stats"]), default=0)

    async def load(self) -> None:
        """Load both and return when they are ready; what is loaded already stays as it is.

        While a command changes what is served, Triton may read one model's file before and the
        other's after the change. Then they are loaded once more.

        Raises:
            Unavailable: Triton cannot be reached, or could not load them.
        """
        deadline = Deadline.after(self._load_timeout_s)
        in_between_until_s: float | None = None
        while True:
            try:
                return await self._load_both(deadline)
            except NotReady as error:
                now_s = time.monotonic()
                in_between_until_s = in_between_until_s or now_s + IN_BETWEEN_S
                if IN_BETWEEN not in (error.internal or "") or now_s > in_between_until_s:
                    raise
            await asyncio.sleep(_POLL_S)

    async def _load_both(self, deadline: Deadline) -> None:
        await self._wait(lambda state: state is not ModelState.UNLOADING, deadline)
        state = await self._look(deadline)
        if state is ModelState.PART:  # with the ensemble, only a network that is not there is loaded
            await self._load(NETWORK, deadline)
        if state is not ModelState.READY:
            await self._load(ENSEMBLE, deadline)

    async def unload(self) -> None:
        """Unload both and return when their memory is free.

        It is no error if they are not loaded, or if Triton has ended.

        Raises:
            Unavailable: Triton does not answer, or does not unload: the model may still be loaded.
        """
        deadline = Deadline.after(self._load_timeout_s)

        async def both(client: InferenceServerClient) -> None:
            for model in (ENSEMBLE, NETWORK):
                await client.unload_model(model.name, headers=self._headers)

        try:
            await self._ask(both, deadline)
            # If it is loading, another frontend has it loaded anew, so the old instance is gone.
            await self._wait(lambda state: state in (ModelState.ABSENT, ModelState.LOADING), deadline)
        except Unavailable as error:
            if not calls.is_nobody_there(error):
                raise

    async def _load(self, model: ModelSpec, deadline: Deadline) -> None:
        await self._ask(lambda client: client.load_model(model.name, headers=self._headers), deadline)

    async def _wait(self, until: Callable[[ModelState], bool], deadline: Deadline) -> None:
        """Wait until the network has reached a state."""
        while not until(await self._look(deadline)):  # noqa: ASYNC110 - only Triton knows
            await asyncio.sleep(_POLL_S)

    async def _look(self, deadline: Deadline) -> ModelState:
        index = await self._ask(
            lambda client: client.get_model_repository_index(headers=self._headers), deadline
        )
        versions = {
            int(entry["version"]): entry.get("state", "")
            for entry in index
            if entry["name"] == NETWORK.name and entry.get("version")
        }
        ensemble = {entry.get("state", "") for entry in index if entry["name"] == ENSEMBLE.name}
        self.loaded = frozenset(version for version, state in versions.items() if state in _IN_MEMORY)
        return state_of(versions, ensemble, set(self._served()))

    async def _ask(
        self, ask: Callable[[InferenceServerClient], Awaitable[T]], deadline: Deadline | None = None
    ) -> T:
        """Make calls on a connection of their own; a refusal means that the model is not there."""
        try:
            async with self._connected() as client:
                return await calls.call(lambda: ask(client), deadline or Deadline.after(_ASK_TIMEOUT_S))
        except (TimedOut, DeadlineExceeded) as error:
            raise Unreachable("the inference server does not answer", internal=error.internal) from error
        except Unavailable:
            raise
        except TritonError as error:
            raise NotReady(
                "the inference server refuses to be administered", internal=error.internal
            ) from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[InferenceServerClient]:
        client = InferenceServerClient(self._url, conn_timeout=None)
        try:
            yield client
        finally:
            await client.close()


def state_of(versions: Mapping[int, str], ensemble: set[str], served: set[int]) -> ModelState:
    """Return the state of the model by the states that Triton's index gives its parts.

    Args:
        versions: of the network, and the state of each.
        ensemble: its states.
        served: the versions that requests are sent to; if there are none, any will do.
    """
    network = set(versions.values())
    is_served = {versions.get(version) for version in served} == {"READY"} if served else "READY" in network
    if is_served and "READY" in ensemble:
        return ModelState.READY
    if "LOADING" in network | ensemble:
        return ModelState.LOADING
    if "UNLOADING" in network:
        return ModelState.UNLOADING
    return ModelState.PART if "READY" in network else ModelState.ABSENT
