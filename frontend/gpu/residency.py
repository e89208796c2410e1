"""The model's residence on a GPU that is shared: it comes when a request needs it, and goes when it must.

Without coordination there is no `Residency`, and a `Visit` finds the model loaded always.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from frontend.errors import DeadlineExceeded, ServiceError
from frontend.gpu.errors import GpuUnavailable, ResidencyFailed
from frontend.gpu.stay import State, Stay, StayOptions
from frontend.triton.errors import NotReady, Unavailable
from model_boss import Capacity, Claim, ClaimRefused, Lease, LeaseOptions, LedgerUnavailable, Nvml
from reward import manifest
from reward.contract import NETWORK
from reward.errors import VersionError
from reward.repository import served_version

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from frontend.deadline import Deadline
    from frontend.metrics import Metrics
    from frontend.settings import Settings
    from frontend.triton.model_control import ModelControl
    from model_boss import Ledger

OWNER: Final = "imajin-aesthetic"

_LOG: Final = logging.getLogger("imajin_aesthetic.residency")
_UNMEASURED_MB: Final = 2048
_DEFAULT_SERVER_ID: Final = "triton"
_RETRY_AFTER_S: Final = 5.0
_FAILURE_KEPT_S: Final = 1.0
_ADOPT_POLL_S: Final = 1.0
_CLOSE_S: Final = 6.0  # with the grace of requests, less than a supervisor waits
_CANCEL_S: Final = 2.0


@dataclass(frozen=True)
class Residence:
    """Where the model stands, as `/info` and `/health` show it."""

    state: State
    gpu: str
    lease_id: str | None
    fence: int | None
    priority: int
    vram_mb: int | None
    expires_in_s: float | None
    is_unprotected: bool
    outage: str | None
    """Why the ledger was not reached the last time."""


def describe(residence: Residence) -> str:
    """Say in a few words where the model stands."""
    if residence.is_unprotected:
        return f"loaded without a lease (fail_open): {residence.outage}"
    if residence.fence is None:
        return (
            f"{residence.state}; a request has it loaded"
            if residence.state is State.UNLOADED
            else residence.state
        )
    words = f"{residence.state}, lease {residence.lease_id}, fence {residence.fence}"
    if residence.outage is not None:
        words += f"; the ledger is away, the lease lasts {residence.expires_in_s} s more"
    return words


class Residency:
    """One stay after another, as requests want it; use as an async context manager."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        control: ModelControl,
        metrics: Metrics,
        *,
        on_loaded: Callable[[], None],
    ) -> None:
        """Prepare; `on_loaded` is called whenever the model may be another one than before."""
        self._settings = settings
        self._ledger = ledger
        self._control = control
        self._metrics = metrics
        self._on_loaded = on_loaded
        self._lease_options = LeaseOptions(
            on_outage=settings.gpu_on_outage,
            meter=Nvml(),
            sharer=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
        )
        self._stay: Stay | None = None
        self._waiting: set[asyncio.Future[Stay]] = set()
        self._wanted_until_s = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._adopter: asyncio.Task[None] | None = None
        self._failure: tuple[float, ServiceError] | None = None
        self._is_closing = False
        for state in State:
            metrics.gpu_state.labels(state).set_function(partial(self._is_in, state))
        metrics.gpu_lease_held.set_function(lambda: self._stay is not None and self._stay.lease.is_held)
        metrics.gpu_unprotected.set_function(
            lambda: self._stay is not None and self._stay.lease.is_unprotected
        )

    async def __aenter__(self) -> Self:
        self._adopter = asyncio.create_task(self._adopt())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing = True
        if self._stay is not None:
            self._stay.close()
        if self._keeper is not None:
            # Unload and give the memory back; what hangs is left to the lease's expiry.
            await asyncio.wait({self._keeper}, timeout=_CLOSE_S)
        tasks = {task for task in (self._keeper, self._adopter) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CANCEL_S)

    @property
    def state(self) -> State:
        """Return where the model stands, as far as this frontend is concerned."""
        return State.UNLOADED if self._stay is None else self._stay.state

    def _is_in(self, state: State) -> bool:
        return self.state is state

    def is_in_use(self, within_s: float) -> bool:
        """Tell whether the model is loaded, and a request of this frontend used it within the last seconds."""
        stay = self._stay
        return stay is not None and stay.state is State.READY and stay.unrequested_s < within_s

    def residence(self) -> Residence:
        """Report where the model stands."""
        lease = None if self._stay is None else self._stay.lease
        expires_in_s = None if lease is None else lease.expires_in_s
        return Residence(
            state=self.state,
            gpu=self._settings.gpu,
            lease_id=None if lease is None else lease.claim.lease_id,
            fence=None if lease is None else lease.fence,
            priority=self._settings.gpu_priority,
            vram_mb=None if lease is None else lease.claim.vram_mb,
            expires_in_s=None if expires_in_s is None else round(expires_in_s, 3),
            is_unprotected=lease is not None and lease.is_unprotected,
            outage=None if lease is None or lease.outage is None else str(lease.outage),
        )

    async def find_trouble(self) -> str | None:
        """Say what would keep a request from the GPU, other than its being in use; None: nothing."""
        if self.state is State.READY:
            return None
        gpu, options = self._settings.gpu, self._lease_options
        try:
            await self._control.is_vacant()  # whether Triton lets itself be administered
            claimed_mb = self._vram_mb()
            table = await self._ledger.table(gpu)
            capacity = None if table.total_mb is None else Capacity(table.total_mb, table.margin_mb or 0)
            if capacity is None and options.meter is not None:
                capacity = await self._ledger.measure(gpu, options.meter, options.margin_mb)
        except Unavailable as error:
            return error.detail
        except (LedgerUnavailable, TimeoutError):
            return "the GPU's ledger cannot be reached"
        if capacity is None:
            return "nobody has told the GPU's ledger how much memory the GPU has"
        room_mb = capacity.total_mb - capacity.margin_mb
        if claimed_mb > room_mb:
            return f"the model is said to need {claimed_mb} MiB, and the GPU's ledger can give {room_mb} MiB"
        return None

    def enter(self, *, is_use: bool = True) -> Stay | None:
        """Count a request into the present stay, if its model is ready; it has to `leave` again."""
        if self._stay is None or self._stay.state is not State.READY or not self._stay.is_usable:
            return None
        self._stay.enter(is_use=is_use)
        return self._stay

    async def join(self, deadline: Deadline) -> Stay:
        """Count a request into a stay, and wait for it.

        Raises:
            GpuUnavailable: no memory was granted, or nothing loaded, within the wait; says when to come back.
            Unavailable: Triton cannot be reached, or cannot load the model.
            DeadlineExceeded: the request's deadline passed before that.
        """
        stay = self.enter()
        if stay is not None:
            return stay
        self._raise_known_failure()
        remaining_s = deadline.remaining_s()
        wait_s = min(remaining_s, self._settings.gpu_wait_s)
        self._start()
        turn: asyncio.Future[Stay] = asyncio.get_running_loop().create_future()
        self._waiting.add(turn)
        try:
            with self._metrics.gpu_wait_seconds.time():
                async with asyncio.timeout(wait_s):
                    return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                turn.result().leave()  # admitted in the same moment
            if not isinstance(error, TimeoutError):
                raise
            if wait_s == remaining_s:
                raise DeadlineExceeded("the deadline passed while the request waited for the GPU") from error
            raise self._unavailable() from error
        finally:
            self._waiting.discard(turn)

    def _start(self) -> None:
        # Whoever is told 503 after the wait is told to come back: the place in the queue is kept as long again.
        self._wanted_until_s = time.monotonic() + 2 * self._settings.gpu_wait_s
        if self._is_closing:
            raise GpuUnavailable("the service is shutting down", retry_after_s=_RETRY_AFTER_S)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep())
            self._keeper.add_done_callback(self._keeper_ended)

    async def _keep(self) -> None:
        """Live stays until nobody waits."""
        try:
            while not self._is_closing:
                await self._live_one()
                if not self._waiting:
                    return
        except ClaimRefused as error:
            self._fail(
                GpuUnavailable(
                    "the GPU's ledger refuses this service",
                    internal=f"{type(error).__name__}: {error}",
                    retry_after_s=_RETRY_AFTER_S,
                )
            )
        except ServiceError as error:
            self._fail(error)

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            _LOG.error("the model's stay ended by a defect", exc_info=error)
            self._fail(ResidencyFailed("an internal error occurred", internal=repr(error)))

    async def _live_one(self) -> None:
        lease = Lease(self._ledger, await self._claim(), self._lease_options)
        settings = self._settings
        options = StayOptions(
            settings.idle_release_s, settings.gpu_yield_grace_s, on_outage=settings.gpu_on_outage
        )
        self._stay = Stay(
            lease,
            self._ledger,
            self._control,
            options,
            self._metrics,
            on_ready=self._admit,
            is_wanted=lambda: time.monotonic() < self._wanted_until_s,
        )
        if self._is_closing:
            self._stay.close()
        try:
            await self._stay.run()
        finally:
            self._stay = None

    def _admit(self, stay: Stay) -> None:
        """Let everybody in who waits, before anything else can happen to the stay."""
        self._failure = None
        self._on_loaded()
        for turn in self._waiting:
            if not turn.done():
                stay.enter()
                turn.set_result(stay)

    async def _claim(self) -> Claim:
        """Compose the claim; where another frontend has made one already, for the same size."""
        server_id = await self._control.server_id()
        if server_id == _DEFAULT_SERVER_ID:
            _LOG.warning("Triton runs under its default id: two of them on one GPU would share one lease")
        vram_mb, priority = self._vram_mb(), self._settings.gpu_priority
        try:
            table = await self._ledger.table(self._settings.gpu)
        except LedgerUnavailable:
            pass
        else:
            for row in (*table.leases, *table.waiters):
                if (row.lease_id, row.owner) == (server_id, OWNER):
                    vram_mb, priority = row.vram_mb, row.priority
        return Claim(self._settings.gpu, server_id, OWNER, NETWORK.name, vram_mb, priority)

    def _vram_mb(self) -> int:
        if self._settings.vram_mb is not None:
            return self._settings.vram_mb
        repository = self._settings.model_repository
        try:
            content = manifest.read(repository / NETWORK.name / str(served_version(repository)))
        except VersionError as error:
            raise NotReady(
                "no version is promoted", internal=str(error), retry_after_s=_RETRY_AFTER_S
            ) from error
        return content.vram_mb or _UNMEASURED_MB

    async def _adopt(self) -> None:
        """Take over a model that is loaded and that nobody answers for: its memory must not be used without a lease.

        At the start a sibling's too, so that the first request finds it; later, what a crash left behind.
        """
        is_starting = True
        while True:
            pause_s = self._ledger.options.ttl_s
            try:
                is_loaded = self._stay is None and not await self._control.is_vacant()
                if is_loaded and not self._is_closing and (is_starting or await self._is_left_behind()):
                    self._start()
                is_starting = False
            except Unavailable:
                pause_s = _ADOPT_POLL_S  # Triton may come up later than this frontend
            except LedgerUnavailable:
                pass
            await asyncio.sleep(pause_s)

    async def _is_left_behind(self) -> bool:
        """Tell whether the loaded model is without a lease."""
        server_id = await self._control.server_id()
        table = await self._ledger.table(self._settings.gpu)
        holders = {(row.lease_id, row.owner) for row in table.leases}
        return not table.is_in_grace and (server_id, OWNER) not in holders

    def _fail(self, error: ServiceError) -> None:
        _LOG.warning("no model: %s", error.internal or error.detail)
        self._failure = (time.monotonic(), error)
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(error)

    def _raise_known_failure(self) -> None:
        if self._failure is not None and time.monotonic() - self._failure[0] < _FAILURE_KEPT_S:
            raise self._failure[1]

    def _unavailable(self) -> GpuUnavailable:
        lease = None if self._stay is None else self._stay.lease
        if lease is not None and lease.outage is not None and not lease.is_held:
            detail = "the GPU's ledger cannot be reached"
        elif self.state is State.LOADING:
            detail = "the model is still being loaded"
        else:
            detail = f"no GPU memory was granted within {self._settings.gpu_wait_s:g} s"
        internal = None if lease is None else f"lease {lease.claim.lease_id}: {self.state}, {lease.outage}"
        return GpuUnavailable(detail, internal=internal, retry_after_s=_RETRY_AFTER_S)


class Visit:
    """One request's use of the model: while it is in the block, a model that is loaded stays.

    With `is_use=False` for no longer than that: it does not count as use.
    """

    def __init__(self, residency: Residency | None, *, is_use: bool = True) -> None:
        self._residency = residency
        self._is_use = is_use
        self._stay: Stay | None = None

    def __enter__(self) -> Self:
        if self._residency is not None:
            self._stay = self._residency.enter(is_use=self._is_use)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    @property
    def is_ready(self) -> bool:
        """Tell whether the model may be asked."""
        return self._residency is None or (self._stay is not None and self._stay.is_usable)

    async def wait_ready(self, deadline: Deadline) -> None:
        """Have the model loaded, and stay.

        Raises:
            GpuUnavailable, Unavailable, DeadlineExceeded: as `Residency.join`.
        """
        if self._residency is None or self.is_ready:
            return
        self._leave()
        self._stay = await self._residency.join(deadline)

    async def was_cut_short(self) -> bool:
        """Tell whether the model was unloaded under this visit; then `wait_ready` has it loaded anew.

        Raises:
            Unavailable: Triton cannot be reached.
        """
        return self._stay is not None and await self._stay.check_gone()

    def _leave(self) -> None:
        if self._stay is not None:
            self._stay.leave(is_use=self._is_use)
            self._stay = None
