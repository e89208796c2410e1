"""One stay of the model on the GPU: the memory leased, the model loaded, used and unloaded, the memory given back.

    reserving ──granted──► loading ──► ready ──► draining ──► (over)
        └── nobody waits for it any more ────────────────────────┘

`ready` ends for one of these reasons:

    idle      no request for as long as was configured
    yield     somebody more urgent asks for the memory
    lost      the lease is gone: Redis was away for too long, or another frontend gave it back
    gone      Triton has the model no more: it was started again
    closing   this frontend ends

The lease has the id of the Triton server, so that all frontends of one Triton share it. Each has a stay of
its own: the first loads, those who come later find the model loaded, and the last to leave unloads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from frontend.errors import ModelUnavailable
from model_boss import ClaimRefused, LeaseLost, LedgerUnavailable, NotGranted, Phase
from model_boss import Ending as LeaseEnding

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontend.metrics import Metrics
    from frontend.model_control import ModelControl
    from model_boss import Lease, Ledger

_LOG: Final = logging.getLogger("imajin_aesthetic.residency")
_SETTLE_S: Final = 3.0
"""For the first answer of a ledger that is there."""
_LOOK_S: Final = 1.0
_SLICE_S: Final = 0.25
_OTHERS_POLL_S: Final = 0.1


class State(StrEnum):
    """Where the model stands."""

    UNLOADED = "unloaded"
    RESERVING = "reserving"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Ending(StrEnum):
    """Why a stay ended."""

    IDLE = "idle"
    YIELD = "yield"
    LOST = "lost"
    GONE = "gone"
    CLOSING = "closing"


@dataclass(frozen=True)
class StayOptions:
    """How long a stay lasts, and how it ends."""

    idle_release_s: float
    """0: it never ends for being idle."""
    yield_grace_s: float


class Stay:
    """Lives once, by `run`; `enter` and `leave` count the requests that use the model."""

    def __init__(
        self,
        lease: Lease,
        ledger: Ledger,
        control: ModelControl,
        options: StayOptions,
        metrics: Metrics,
        *,
        on_ready: Callable[[Stay], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        """Prepare; `on_ready` is called when requests may enter, `is_wanted` tells whether any waits."""
        self.lease = lease
        self.state = State.RESERVING
        self.is_usable = False
        """Whether those who entered may still ask the model."""
        self._ledger = ledger
        self._control = control
        self._options = options
        self._metrics = metrics
        self._on_ready = on_ready
        self._is_wanted = is_wanted
        self._fence: int | None = None
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._used_at_s = self._requested_at_s = time.monotonic()
        self._ran_at_ms: int | None = None  # the network, by Triton's clock
        self._is_gone = asyncio.Event()
        self._is_closing = asyncio.Event()

    def enter(self) -> None:
        """Count one request in."""
        self._users += 1
        self._unused.clear()
        self._note_request()

    def leave(self) -> None:
        """Count one request out."""
        self._users -= 1
        self._note_request()
        if not self._users:
            self._unused.set()

    def close(self) -> None:
        """End the stay, because this frontend ends."""
        self._is_closing.set()

    @property
    def unused_s(self) -> float:
        """Return for how long nobody has used the model, at whatever door."""
        return 0.0 if self._users else time.monotonic() - self._used_at_s

    @property
    def unrequested_s(self) -> float:
        """Return for how long no request of this frontend has used it."""
        return 0.0 if self._users else time.monotonic() - self._requested_at_s

    async def check_gone(self) -> bool:
        """Ask Triton whether it still has the model, after a request could not find it.

        Raises:
            ModelUnavailable: Triton cannot be reached.
        """
        if self.is_usable and not await self._control.is_loaded():
            self.is_usable = False
            self._is_gone.set()
        return not self.is_usable

    async def run(self) -> None:
        """Live from the claim to the release.

        Raises:
            ClaimRefused: the ledger will not grant the memory, however long one waits.
            ModelUnavailable: Triton cannot be reached, or cannot load the model.
        """
        async with self.lease:
            try:
                await self._run()
            except asyncio.CancelledError:
                await self.lease.detach()  # the model may be loaded: let the lease expire
                raise
            finally:
                self.is_usable = False

    async def _run(self) -> None:
        if not await self._reserve() or not await self._take_up():
            return
        while True:
            self._enter_state(State.READY)
            self.is_usable = True
            self._on_ready(self)
            ending = await self._wait_ending()
            self._enter_state(State.DRAINING)
            if await self._wind_up(ending):
                self._metrics.gpu_endings.labels(ending).inc()
                self._log(f"ended, {ending}")
                return

    async def _reserve(self) -> bool:
        """Wait for the grant; False where nobody wants it any more."""
        if not await self._control.is_vacant():
            # Another frontend has it loaded, and shares the lease; or it was left behind by one that
            # crashed, and then its memory is used without a lease.
            try:
                await self.lease.wait_granted(_SETTLE_S)
            except (NotGranted, ClaimRefused):
                self._log("loaded and not leased")
                await self._unload()
            except LeaseLost:
                return False
        while True:
            try:
                self._fence = await self.lease.wait_granted(_SLICE_S)
            except NotGranted:
                if self._is_closing.is_set() or not self._is_wanted():
                    return False
            except LeaseLost:
                return False
            else:
                return True

    async def _take_up(self) -> bool:
        """Load the model, or find it loaded; False where the lease is of no use."""
        lease = self.lease
        if lease.yield_asked.is_set():  # end it, or leave that to those who are at it; then claim anew
            if await self._is_last():
                await self._unload()
            else:
                await lease.detach()
                await asyncio.sleep(_OTHERS_POLL_S)
            return False
        if lease.phase is Phase.ACTIVE:
            # What is unloaded is not loaded again under the same lease: claim anew (docs/model-boss.md).
            return await self._control.is_loaded()
        self._enter_state(State.LOADING)
        try:
            with self._metrics.gpu_load_seconds.time():
                await self._control.load()
            await lease.commit()
        except LeaseLost:
            await self._unload_unless_taken()
            return False
        except BaseException:
            self._metrics.gpu_endings.labels("failed").inc()
            await self._unload()  # what of it was loaded
            raise
        return True

    async def _wait_ending(self) -> Ending:
        asked = asyncio.create_task(self.lease.wait_ending())
        gone = asyncio.create_task(self._is_gone.wait())
        closing = asyncio.create_task(self._is_closing.wait())
        waits = {asked, gone, closing}
        look_s = min(_LOOK_S, self._options.idle_release_s / 4 or _LOOK_S)
        try:
            while True:
                await asyncio.wait(waits, timeout=look_s, return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    return Ending.LOST if asked.result() is LeaseEnding.LOST else Ending.YIELD
                if gone.done() or not await self._is_still_loaded():
                    return Ending.GONE
                if closing.done():
                    return Ending.CLOSING
                if 0 < self._options.idle_release_s <= self.unused_s:
                    return Ending.IDLE
        finally:
            for wait in waits:
                wait.cancel()

    async def _is_still_loaded(self) -> bool:
        """See whether Triton has the model, and whether it was used at Triton's own door."""
        try:
            if not await self._control.is_loaded():
                return False
            ran_at_ms = await self._control.last_inference_ms()
        except ModelUnavailable:
            return True  # Triton is away: it is for requests to find out, and for its keeper to mend
        if ran_at_ms != self._ran_at_ms:
            self._ran_at_ms = ran_at_ms
            self._note_use()
        return True

    async def _wind_up(self, ending: Ending) -> bool:
        """Give the model up; False where it has to be kept after all."""
        if ending in (Ending.IDLE, Ending.YIELD, Ending.CLOSING):
            await self._drain()
            is_last = await self._is_last()
            if is_last is None and ending is Ending.IDLE:
                self._log("idle, but kept: the ledger is away")
                self._note_use()
                return False
            if is_last is False and ending is Ending.YIELD:
                await self._wait_others()
                is_last = True
            if is_last is False:
                await self.lease.detach()
                return True
        if ending is Ending.GONE or self.lease.lost.is_set():
            await self._unload_unless_taken()
        else:
            await self._unload()
        return True

    async def _drain(self) -> None:
        """Let those who entered finish, within the grace period or for as long as the lease lasts."""
        waits = [asyncio.create_task(event.wait()) for event in (self._unused, self.lease.lost)]
        try:
            await asyncio.wait(
                waits, timeout=self._options.yield_grace_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        if self._users:
            self._log(f"{self._users} requests were not finished in time")

    async def _is_last(self) -> bool | None:
        """Leave; tell whether it is for this stay to unload, because no other is left. None: nobody knows."""
        try:
            return not await self.lease.leave()
        except LeaseLost:
            return True
        except LedgerUnavailable:
            return None

    async def _wait_others(self) -> None:
        """Keep the lease while others finish: till the last gave it back, or left that to this stay by a crash."""
        while True:
            if await self._is_last() is True:
                return
            await asyncio.sleep(_OTHERS_POLL_S)

    async def _unload_unless_taken(self) -> None:
        """Unload what is loaded, unless another frontend of ours has leased the memory anew for it."""
        self.is_usable = False
        claim = self.lease.claim
        with suppress(ModelUnavailable):
            if await self._control.is_vacant():
                return
        with suppress(LedgerUnavailable):
            for row in (await self._ledger.table(claim.gpu)).leases:
                if (row.lease_id, row.owner) == (claim.lease_id, claim.owner) and row.fence != self._fence:
                    return
        await self._unload()

    async def _unload(self) -> None:
        self.is_usable = False
        try:
            with self._metrics.gpu_unload_seconds.time():
                await self._control.unload()
        except ModelUnavailable as error:  # a Triton that is gone holds no memory either
            self._log(f"not unloaded: {error.detail}; {error.internal}")

    def _note_request(self) -> None:
        self._note_use()
        self._requested_at_s = self._used_at_s

    def _note_use(self) -> None:
        self._used_at_s = time.monotonic()
        self.lease.touch()

    def _enter_state(self, state: State) -> None:
        self.state = state
        self._log(state)

    def _log(self, what: str) -> None:
        _LOG.info("lease %s: model %s", self.lease.claim.lease_id, what)
