"""Triton's explicit model control: the network and the ensemble over it, loaded and unloaded as one.

What Triton 2.51 was measured to do (docs/decisions/residency.md) decides the order of the calls here:
loading the ensemble loads the network with it; an unload returns at once and goes on; a load called
meanwhile does not wait for it, and has two instances in memory; and while a load runs, connections that were
kept alive hang, so that every call has one of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from tritonclient.http.aio import InferenceServerClient

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded
from frontend.triton import calls
from frontend.triton.errors import NotReady, TimedOut, TritonError, Unavailable, Unreachable
from reward.contract import ENSEMBLE, NETWORK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

T = TypeVar("T")

_ADMIN_HEADER: Final = "triton-admin-key"
_ASK_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05
_GONE: Final = frozenset({"", "UNAVAILABLE"})


class ModelControl:
    """One Triton server's administration."""

    def __init__(self, url: str, admin_key: str | None, *, load_timeout_s: float) -> None:
        self._url = url
        self._headers = {} if admin_key is None else {_ADMIN_HEADER: admin_key}
        self._load_timeout_s = load_timeout_s

    async def server_id(self) -> str:
        """Return what Triton was started with as `--id`.

        Raises:
            Unavailable: Triton cannot be reached.
        """
        metadata = await self._ask(lambda client: client.get_server_metadata())
        name: str = metadata["name"]
        return name

    async def is_loaded(self) -> bool:
        """Tell whether a request would find both models.

        Raises:
            Unavailable: Triton cannot be reached.
        """

        async def both(client: InferenceServerClient) -> bool:
            return all([await client.is_model_ready(model.name) for model in (NETWORK, ENSEMBLE)])

        return await self._ask(both)

    async def is_vacant(self) -> bool:
        """Tell whether the network takes no memory: neither loaded, nor on its way in or out.

        Raises:
            Unavailable: Triton cannot be reached.
        """
        return await self._states(Deadline.after(_ASK_TIMEOUT_S)) <= _GONE

    async def last_inference_ms(self) -> int:
        """Return when the network last ran, by Triton's clock; 0: not since it was loaded.

        Raises:
            Unavailable: Triton cannot be reached, or the network is not loaded.
        """
        answer = await self._ask(lambda client: client.get_inference_statistics(NETWORK.name))
        return max((int(entry.get("last_inference", 0)) for entry in answer["model_stats"]), default=0)

    async def load(self) -> None:
        """Load both and return when they are ready; what is loaded already stays as it is.

        Raises:
            Unavailable: Triton cannot be reached, or could not load them.
        """
        deadline = Deadline.after(self._load_timeout_s)
        await self._wait(lambda states: "UNLOADING" not in states, deadline)
        if not await self.is_loaded():
            await self._ask(lambda client: client.load_model(ENSEMBLE.name, headers=self._headers), deadline)

    async def unload(self) -> None:
        """Unload both and return when their memory is free; what is not loaded is no error, nor a Triton that ended.

        Raises:
            Unavailable: Triton does not answer, or does not let go: the model may still be loaded.
        """
        deadline = Deadline.after(self._load_timeout_s)

        async def both(client: InferenceServerClient) -> None:
            for model in (ENSEMBLE, NETWORK):
                await client.unload_model(model.name, headers=self._headers)

        try:
            await self._ask(both, deadline)
            # Loading: another frontend has it loaded anew already, so what was to go is gone.
            await self._wait(lambda states: states <= _GONE or "LOADING" in states, deadline)
        except Unavailable as error:
            if not calls.is_nobody_there(error):
                raise

    async def _wait(self, until: Callable[[set[str]], bool], deadline: Deadline) -> None:
        """Wait until the states of the network's versions are as they should be."""
        while True:
            if until(await self._states(deadline)):
                return
            await asyncio.sleep(_POLL_S)

    async def _states(self, deadline: Deadline) -> set[str]:
        index = await self._ask(
            lambda client: client.get_model_repository_index(headers=self._headers), deadline
        )
        return {entry.get("state", "") for entry in index if entry["name"] == NETWORK.name}

    async def _ask(
        self, ask: Callable[[InferenceServerClient], Awaitable[T]], deadline: Deadline | None = None
    ) -> T:
        """Await calls on a connection of their own; any refusal means that the model cannot be had."""
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
