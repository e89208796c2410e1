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
its own: the first loads, those who come later find the model loaded, and the last to leave unloads. So however a
stay ends, it asks the ledger first whether it is the last, and what is not known to be unloaded is not given back:
the lease is left to the others, or to its expiry.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from frontend.errors import ServiceError
from frontend.triton.errors import Unavailable
from model_boss import ClaimRefused, LeaseLost, LedgerUnavailable, NotGranted, OnOutage, Phase
from model_boss import Ending as LeaseEnding

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontend.metrics import Metrics
    from frontend.triton.model_control import ModelControl
    from model_boss import Lease, Ledger

_LOG: Final = logging.getLogger("imajin_aesthetic.residency")
_LOOK_S: Final = 1.0
_SLICE_S: Final = 0.5
_OTHERS_POLL_S: Final = 0.1
_UNLOAD_AGAIN_S: Final = 1.0


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
    on_outage: OnOutage = OnOutage.FAIL_CLOSED


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

    def enter(self, *, is_use: bool = True) -> None:
        """Count one request in; one that is no use, as of `/info`, does not keep the model for longer."""
        self._users += 1
        self._unused.clear()
        if is_use:
            self._note_request()

    def leave(self, *, is_use: bool = True) -> None:
        """Count one request out."""
        self._users -= 1
        if is_use:
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
            Unavailable: Triton cannot be reached.
        """
        if self.is_usable and not await self._control.is_loaded():
            self.is_usable = False
            self._is_gone.set()
        return not self.is_usable

    async def run(self) -> None:
        """Live from the claim to the release.

        Raises:
            ClaimRefused: the ledger will not grant the memory, however long one waits.
            Unavailable: Triton cannot be reached, or cannot load the model.
        """
        try:
            await self._run()
        finally:
            self.is_usable = False
            await self.lease.detach()  # what was not given back by now is the others', or has to expire

    async def _run(self) -> None:
        if not await self._reserve():
            await self._withdraw()
            return
        try:
            is_ready = await self._take_up()
        except LeaseLost:
            self._metrics.gpu_endings.labels(Ending.LOST).inc()
            await self._unload_unless_taken()
            return
        except ServiceError:
            self._metrics.gpu_endings.labels("failed").inc()
            await self._withdraw()
            raise
        if not is_ready:
            await self._withdraw()
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
        began_at_s = time.monotonic()
        await self._control.is_vacant()  # without Triton there is nothing to ask memory for
        while True:
            try:
                self._fence = await self.lease.wait_granted(_SLICE_S)
            except LeaseLost:
                return False
            except (NotGranted, ClaimRefused) as error:
                if self._is_closing.is_set():
                    return False
                if await self._is_left_behind(time.monotonic() - began_at_s):
                    self._log("loaded and not leased")
                    await self._unload()
                if isinstance(error, ClaimRefused):
                    raise
                if not self._is_wanted():
                    return False
            else:
                return True

    async def _is_left_behind(self, waited_s: float) -> bool:
        """Tell whether the model is loaded and no frontend of ours has a lease for it, or may still have one."""
        if await self._control.is_vacant():
            return False
        claim = self.lease.claim
        try:
            table = await self._ledger.table(claim.gpu)
        except LedgerUnavailable:
            # By now, whoever held a lease has lost it, or goes on without.
            is_over = waited_s > self._ledger.options.ttl_s
            return is_over and self._options.on_outage is OnOutage.FAIL_CLOSED
        # In the grace of a new ledger a holder may not have been admitted again yet, and nobody else is granted.
        return not table.is_in_grace and table.holder(claim) is None

    async def _take_up(self) -> bool:
        """Load the model, or find it loaded; False where this lease is of no use.

        Raises:
            LeaseLost: the lease was lost while the model was loaded.
            Unavailable: Triton cannot be reached, or cannot load the model.
        """
        if self.lease.yield_asked.is_set():
            return False
        if self.lease.phase is Phase.ACTIVE:
            # What is unloaded is not loaded again under the same lease: claim anew (docs/model-boss.md).
            return await self._control.is_loaded()
        self._enter_state(State.LOADING)
        with self._metrics.gpu_load_seconds.time():
            await self._control.load()
        await self.lease.commit()
        return True

    async def _withdraw(self) -> None:
        """Give up a lease that this stay has no use for; others may have, and the last of them unloads."""
        with suppress(LeaseLost, LedgerUnavailable):
            if await self.lease.leave():
                await asyncio.sleep(_OTHERS_POLL_S)  # before it is asked for again
                return
            await self._unload()  # what was loaded in part, or left behind by a crash
            await self.lease.release()

    async def _wait_ending(self) -> Ending:
        asked = asyncio.create_task(self.lease.wait_ending())
        gone = asyncio.create_task(self._is_gone.wait())
        closing = asyncio.create_task(self._is_closing.wait())
        watching = asyncio.create_task(self._watch())
        waits: set[asyncio.Task[Any]] = {asked, gone, closing, watching}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return Ending.LOST if asked.result() is LeaseEnding.LOST else Ending.YIELD
            if gone.done():
                return Ending.GONE
            return watching.result() if watching.done() else Ending.CLOSING
        finally:
            for wait in waits:
                wait.cancel()

    async def _watch(self) -> Ending:
        """Look at the model now and then until Triton has it no more, or it was idle for long enough."""
        idle_release_s = self._options.idle_release_s
        while True:
            await asyncio.sleep(min(_LOOK_S, idle_release_s / 4 or _LOOK_S))
            self._fence = self.lease.fence or self._fence  # another one after an outage, with `fail_open`
            if self._users:
                self.lease.touch()
            if not await self._is_still_loaded():
                return Ending.GONE
            if 0 < idle_release_s <= self.unused_s:
                return Ending.IDLE

    async def _is_still_loaded(self) -> bool:
        """See whether Triton has the model, and whether it was used at Triton's own door."""
        try:
            if not await self._control.is_loaded():
                return False
            ran_at_ms = await self._control.last_inference_ms()
        except Unavailable:
            return True  # Triton is away: it is for requests to find out, and for its keeper to mend
        if ran_at_ms != self._ran_at_ms:
            self._ran_at_ms = ran_at_ms
            self._note_use()
        return True

    async def _wind_up(self, ending: Ending) -> bool:
        """Give the model up; False where it has to be kept after all."""
        if ending in (Ending.LOST, Ending.GONE):
            await self._unload_unless_taken()
            await self.lease.release()  # what is lost is not released, and nothing is said
            return True
        await self._drain()
        try:
            while (others := await self._leave()) != 0:
                if others is None and ending is Ending.IDLE:
                    self._log("idle, but kept: the ledger is away")
                    self._note_use()
                    return False
                if ending is Ending.YIELD:
                    if others is None and self.lease.is_unprotected:
                        break  # who asked for the memory has it by now
                elif others is not None or self.lease.is_unprotected:
                    return True  # it is the others', or a GPU of one's own
                await asyncio.sleep(_OTHERS_POLL_S)
        except LeaseLost:
            await self._unload_unless_taken()
            return True
        await self._unload()
        await self.lease.release()
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

    async def _leave(self) -> int | None:
        """Leave, and tell how many others are at work; at 0 it is for this stay to unload. None: nobody knows.

        Raises:
            LeaseLost: the lease is gone.
        """
        try:
            return await self.lease.leave()
        except LedgerUnavailable:
            return None

    async def _unload_unless_taken(self) -> None:
        """Unload what is loaded, unless another frontend of ours has leased the memory anew for it."""
        self.is_usable = False
        if self.lease.outage is None:  # else each second counts, and the ledger does not answer anyway
            with suppress(Unavailable, LedgerUnavailable):
                if await self._control.is_vacant():
                    return
                holder = (await self._ledger.table(self.lease.claim.gpu)).holder(self.lease.claim)
                if holder is not None and holder.fence != self._fence:
                    return
        await self._unload()

    async def _unload(self) -> None:
        """Unload, however long it takes: the memory is not to be given back before."""
        self.is_usable = False
        trouble = None
        with self._metrics.gpu_unload_seconds.time():
            while True:
                try:
                    await self._control.unload()
                except Unavailable as error:
                    if str(error) != trouble:
                        trouble = str(error)
                        self._log(f"not unloaded: {error.detail}; {error.internal}")
                    await asyncio.sleep(_UNLOAD_AGAIN_S)
                else:
                    return

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
