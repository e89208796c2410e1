"""A Triton that only knows the state of its model.

It is for states that the real Triton cannot be brought into at the right moment.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from frontend.deadline import Deadline
from frontend.gpu.keeper import Keeper, KeeperOptions
from frontend.metrics import Metrics
from frontend.triton.errors import NotLoaded, Unavailable
from frontend.triton.model_control import ModelControl
from frontend.triton.state import ModelState
from model_boss import Ledger, LedgerOptions
from tests.integration.gpu.shared_gpu import CLAIMED_MB, GPU, TTL_S

if TYPE_CHECKING:
    from model_boss import GpuLedger

SERVER_ID: Final = "triton-stand-in"


class StandInTriton:
    """One server; each frontend has a `StandInControl` of its own."""

    def __init__(self) -> None:
        self.state = ModelState.ABSENT
        self.load_s = 0.1
        self.unload_s = 0.1
        self.loads = 0
        self.unloads = 0
        self.ran = 0
        self._running = 0
        self._loading: asyncio.Task[None] | None = None

    @property
    def is_loaded(self) -> bool:
        return self.state is ModelState.READY

    async def infer(self, for_s: float = 0.0) -> None:
        """Run an inference; an unload waits for it."""
        if not self.is_loaded:
            raise NotLoaded("the stand-in has no model")
        self._running += 1
        await asyncio.sleep(for_s)
        self._running -= 1
        self.ran += 1

    async def load(self) -> None:
        """Load the model, even if the caller leaves; concurrent loads become one."""
        if self.is_loaded:
            return
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load())
        await asyncio.shield(self._loading)

    async def unload(self) -> None:
        """Unload the model, once a load under way and all running inferences have ended."""
        if self._loading is not None:
            await asyncio.shield(self._loading)
        self.unloads += 1
        self.state = ModelState.UNLOADING
        await asyncio.sleep(self.unload_s)
        while self._running:  # noqa: ASYNC110 - as Triton does
            await asyncio.sleep(0.01)
        self.state = ModelState.ABSENT

    async def _load(self) -> None:
        self.loads += 1
        self.state = ModelState.LOADING
        await asyncio.sleep(self.load_s)
        self.state = ModelState.READY


class StandInControl(ModelControl):
    """One frontend's way to the server; it can be cut, and it can fail to load."""

    def __init__(self, triton: StandInTriton) -> None:
        super().__init__("127.0.0.1:0", None, load_timeout_s=10)
        self.is_cut = False
        self.fails_to_load = False
        self.defects = 0
        """How many of the next looks raise an unexpected exception."""
        self._triton = triton

    async def server_id(self) -> str:
        self._check()
        return SERVER_ID

    async def look(self, timeout_s: float = 5.0) -> ModelState:
        del timeout_s
        self._check()
        if self.defects:
            self.defects -= 1
            raise RuntimeError("a defect")
        return self._triton.state

    async def last_inference_ms(self, timeout_s: float = 5.0) -> int:
        del timeout_s
        self._check()
        return self._triton.ran

    async def load(self) -> None:
        self._check()
        if self.fails_to_load:
            raise Unavailable("the stand-in was told to fail")
        await self._triton.load()

    async def unload(self) -> None:
        self._check()
        await self._triton.unload()

    def _check(self) -> None:
        if self.is_cut:
            raise Unavailable("the stand-in does not answer")


class StandInFrontend(Keeper):
    """The keeper of one frontend, without the rest of the frontend."""

    def __init__(
        self,
        triton: StandInTriton,
        ledger: GpuLedger | str,
        *,
        ttl_s: float = TTL_S,
        name: str | None = None,
        **settings: object,
    ) -> None:
        """Take a ledger, or the URL of a Redis."""
        self.triton = triton
        self.control = StandInControl(triton)
        if isinstance(ledger, str):
            ledger = Ledger(ledger, LedgerOptions(ttl_s=ttl_s))
        vram_mb = settings.pop("vram_mb", CLAIMED_MB)
        assert isinstance(vram_mb, int)
        values: dict[str, object] = {
            "coordination": "a test",
            "gpu": GPU,
            "holder": name or f"frontend-{id(self)}",
            "ttl_s": ledger.ttl_s,
            "priority": 500,
            "vram_mb": lambda loaded: vram_mb * max(1, len(loaded)),
            "wait_s": 20.0,
            "idle_release_s": 0.0,
            "fail_open": False,
            "close_s": 20.0,
            **settings,
        }
        options = KeeperOptions(**values)  # type: ignore[arg-type]
        super().__init__(ledger, self.control, options, Metrics(), on_loaded=lambda: None)

    async def use(self, for_s: float = 0.0) -> int | None:
        """Do what a request does; return the fence under which the model was used."""
        deadline = Deadline.after(30)
        while True:
            fence = self.status().fence
            try:
                if not self.is_ready:
                    await self.wake(deadline)
                    fence = self.status().fence
                await self.triton.infer(for_s)
            except NotLoaded:
                await self.wake(deadline)
            else:
                return fence

    async def crash(self) -> None:
        """Stop at once and tell nobody, as after SIGKILL."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        await self._ledger.aclose()
