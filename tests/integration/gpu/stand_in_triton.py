"""A Triton that only knows where its model stands, for what the real one cannot be made to do at the right moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from frontend.deadline import Deadline
from frontend.errors import ModelUnavailable
from frontend.gpu.residency import Residency
from frontend.metrics import Metrics
from frontend.settings import Settings
from frontend.triton.model_control import ModelControl
from model_boss import Ledger, LedgerOptions
from tests.integration.gpu.shared_gpu import CLAIMED_MB, GPU, TTL_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from frontend.gpu.stay import Stay
    from model_boss import Claim, Shared

SERVER_ID: Final = "triton-stand-in"


class StandInTriton:
    """One server; each frontend has a `StandInControl` of its own."""

    def __init__(self) -> None:
        self.state = "UNAVAILABLE"
        self.load_s = 0.1
        self.unload_s = 0.1
        self.unloads = 0
        self._loading: asyncio.Task[None] | None = None

    @property
    def is_loaded(self) -> bool:
        return self.state == "READY"

    async def load(self) -> None:
        """Load, whether or not the caller stays; concurrent loads are one."""
        if self.is_loaded:
            return
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load())
        await asyncio.shield(self._loading)

    async def unload(self) -> None:
        """Unload, once a load that is under way has ended."""
        if self._loading is not None:
            await asyncio.shield(self._loading)
        self.unloads += 1
        self.state = "UNLOADING"
        await asyncio.sleep(self.unload_s)
        self.state = "UNAVAILABLE"

    async def _load(self) -> None:
        self.state = "LOADING"
        await asyncio.sleep(self.load_s)
        self.state = "READY"


class StandInControl(ModelControl):
    """One frontend's way to the server, which may be cut, or fail to load."""

    def __init__(self, triton: StandInTriton) -> None:
        super().__init__("127.0.0.1:0", None, load_timeout_s=10)
        self.is_cut = False
        self.fails_to_load = False
        self.hides_readiness = False
        self._triton = triton

    async def server_id(self) -> str:
        self._check()
        return SERVER_ID

    async def is_loaded(self) -> bool:
        self._check()
        if self.hides_readiness:
            raise ModelUnavailable("the stand-in does not say")
        return self._triton.is_loaded

    async def is_vacant(self) -> bool:
        self._check()
        return self._triton.state == "UNAVAILABLE"

    async def last_inference_ms(self) -> int:
        self._check()
        return 0

    async def load(self) -> None:
        self._check()
        await self._triton.load()
        if self.fails_to_load:
            raise ModelUnavailable("the stand-in was told to fail")

    async def unload(self) -> None:
        self._check()
        await self._triton.unload()

    def _check(self) -> None:
        if self.is_cut:
            raise ModelUnavailable("the stand-in does not answer")


class HeldUpLedger(Ledger):
    """A real ledger; what a sharer says to it may be held up, or fail."""

    hold_up: Callable[[bool], Awaitable[None]] | None = None
    """Awaited before each `share`, with its `is_here`."""

    async def share(self, claim: Claim, fence: int, sharer: str, *, is_here: bool) -> Shared:
        if self.hold_up is not None:
            await self.hold_up(is_here)
        return await super().share(claim, fence, sharer, is_here=is_here)


class StandInFrontend(Residency):
    """The residency of one frontend, without its doors."""

    def __init__(self, triton: StandInTriton, url: str, *, ttl_s: float = TTL_S, **settings: object) -> None:
        values: dict[str, object] = {
            "redis_url": url,
            "gpu": GPU,
            "vram_mb": CLAIMED_MB,
            "idle_release_s": 0,
            "gpu_wait_s": 20,
            "gpu_yield_grace_s": 2,
            **settings,
        }
        self.control = StandInControl(triton)
        self.ledger = HeldUpLedger.connect(url, LedgerOptions(ttl_s=ttl_s))
        super().__init__(
            Settings.model_validate(values), self.ledger, self.control, Metrics(), on_loaded=lambda: None
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        await self.ledger.aclose()

    async def use(self, for_s: float = 0.0) -> int | None:
        """Be a request; return the fence under which the model was used."""
        stay = await self.join(Deadline.after(30))
        fence = stay.lease.fence
        await asyncio.sleep(for_s)
        stay.leave()
        return fence

    @property
    def stay(self) -> Stay:
        """The present stay."""
        assert self._stay is not None
        return self._stay

    async def crash(self) -> None:
        """Say nothing more to anybody, as after SIGKILL."""
        for task in (self._keeper, self._adopter, self.stay.lease._keeper):
            assert task is not None
            task.cancel()
        self.stay.lease._keeper = None
        self._keeper = self._adopter = None
        await self.ledger.aclose()
