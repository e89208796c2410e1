"""The keeper on another coordinator than model-boss.

It uses the adapter that `docs/gpu-sharing.md` shows.
"""

from __future__ import annotations

import re
import sys
import time
from types import ModuleType
from typing import Any

import pytest

from frontend.gpu.errors import GpuUnavailable
from frontend.gpu.ledger import load_ledger
from model_boss import Standing
from tests.integration.gpu.shared_gpu import GPU
from tests.integration.gpu.stand_in_triton import StandInFrontend, StandInTriton
from tests.integration.servers import until
from tests.repository import CHECKOUT

TTL_S = 1.2


class Denied(Exception):
    """An error of the coordinator: it refuses."""


class Down(Exception):
    """An error of the coordinator: it is away."""


class Client:
    """The coordinator's client that the document imagines: one lease, in memory."""

    ttl_s = TTL_S
    is_full = False
    is_down = False
    state: dict[str, Any] | None = None
    priorities: list[str] = []  # noqa: RUF012 - one coordinator for all clients
    tokens = 0

    async def acquire(
        self, gpu: str, name: str, worker: str, *, megabytes: int, priority: str
    ) -> dict[str, Any]:
        assert (gpu, name) == (GPU, "triton-stand-in")
        Client.priorities.append(priority)
        if Client.is_down:
            raise Down("told to be")
        if megabytes > 10_000:
            raise Denied("too much")
        state = self._live()
        if state is None and Client.is_full:
            return {"status": "queued"}
        if state is None or (state["worker"] != worker and time.monotonic() > state["follow_at"]):
            Client.tokens += 1
            before = state or {"loaded": False, "preempted": False}
            Client.state = {**before, "status": "held", "worker": worker, "token": Client.tokens}
            return self._beat(asked_by_others=False)
        if state["worker"] != worker:
            state["asked_by_others"] = True
            return state
        return self._beat()

    async def heartbeat(self, name: str, token: int, **more: bool) -> dict[str, Any] | None:
        state = self._live()
        if Client.is_down:
            raise Down("told to be")
        if state is None or not self._holds(name, token):
            return None
        return self._beat(loaded=state["loaded"] or more.get("loaded", False))

    async def release(self, name: str, token: int) -> None:
        assert self._holds(name, token)
        Client.state = None

    async def transfer(self, name: str, token: int) -> None:
        assert self._holds(name, token)
        assert Client.state is not None
        Client.state["follow_at"] = 0.0

    async def capacity(self, gpu: str) -> int:
        return 10_000 if gpu == GPU else 0

    async def close(self) -> None:
        pass

    def _holds(self, name: str, token: int) -> bool:
        state = self._live()
        return name == "triton-stand-in" and state is not None and bool(state["token"] == token)

    def _live(self) -> dict[str, Any] | None:
        state = Client.state
        return state if state is not None and time.monotonic() < state["ends_at"] else None

    def _beat(self, **more: bool) -> dict[str, Any]:
        assert Client.state is not None
        now_s = time.monotonic()
        Client.state |= {**more, "ends_at": now_s + TTL_S, "follow_at": now_s + 2 / 3 * TTL_S}
        return Client.state


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> str:
    """The adapter from the document as a module, by its name for `AESTHETIC_GPU_LEDGER`."""
    Client.state, Client.is_full, Client.is_down, Client.priorities = None, False, False, []
    coordinator = ModuleType("coordinator")
    vars(coordinator).update(Client=Client, Denied=Denied, Down=Down)
    monkeypatch.setitem(sys.modules, "coordinator", coordinator)
    document = (CHECKOUT / "docs" / "gpu-sharing.md").read_text()
    (text,) = re.findall(r"```python\n(import coordinator.*?)```", document, re.DOTALL)
    module = ModuleType("ourgpu")
    exec(text, vars(module))
    monkeypatch.setitem(sys.modules, "ourgpu", module)
    return "ourgpu:connect"


async def test_the_keeper_runs_on_the_adapter_of_the_document(adapter: str) -> None:
    """The keeper loads, stands by, follows a crash and hands over on this coordinator.

    It also gives way to a preemption, and gives the lease back at its end.
    """
    triton = StandInTriton()
    first = StandInFrontend(triton, load_ledger(adapter, GPU))
    await first.__aenter__()
    assert await first.use() == 1
    assert set(Client.priorities) == {"normal"}
    async with StandInFrontend(triton, load_ledger(adapter, GPU)) as second:
        await until(lambda: _stands(second, Standing.OTHERS))
        await first.crash()
        await until(lambda: _stands(second, Standing.COMMITTED))
        assert (await second.use(), triton.loads) == (2, 1)
        assert Client.state is not None
        Client.state["preempted"] = Client.is_full = True
        await until(lambda: _is_unloaded(triton))
        await until(_is_free)
        Client.is_full = False
        assert await second.use() == 3
        async with StandInFrontend(triton, load_ledger(adapter, GPU)) as third:
            await until(lambda: _stands(third, Standing.OTHERS))
        assert (triton.loads, triton.unloads) == (2, 1)
    assert await _is_free()
    assert not triton.is_loaded


async def test_what_the_coordinator_refuses_is_told(adapter: str) -> None:
    """A refusal of the coordinator is 503 at once.

    If the coordinator is away for longer than a lease lasts, the model is unloaded.
    """
    triton = StandInTriton()
    async with StandInFrontend(triton, load_ledger(adapter, GPU), vram_mb=20_000) as frontend:
        with pytest.raises(GpuUnavailable, match="refuses"):
            await frontend.use()
        assert "20000 MiB" in str(await frontend.find_trouble())
    async with StandInFrontend(triton, load_ledger(adapter, GPU)) as frontend:
        await frontend.use()
        Client.is_down = True
        await until(lambda: _is_unloaded(triton))
        Client.is_down = False


@pytest.mark.parametrize("name", ["no_such_module:connect", "frontend.gpu.ledger:nothing", "frontend", ":"])
def test_a_name_that_leads_to_no_factory_is_refused(name: str) -> None:
    """A wrong name of a factory is refused at the start, and not with the first request."""
    with pytest.raises(ValueError, match=r"is not package\.module:factory"):
        load_ledger(name, GPU)


async def _stands(frontend: StandInFrontend, standing: Standing) -> bool:
    return frontend._tenure.standing is standing


async def _is_unloaded(triton: StandInTriton) -> bool:
    return not triton.is_loaded


async def _is_free() -> bool:
    return Client.state is None
