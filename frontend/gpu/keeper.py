"""The model on a shared GPU for the rest of the service: have it loaded, and see its state.

Every frontend has a `Keeper`. The ledger elects one of them to load and unload the model of their
Triton. The others stand by and go through the same steps (`decide`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from frontend.errors import DeadlineExceeded, ServiceError
from frontend.gpu.decide import Action
from frontend.gpu.driver import Driver
from frontend.gpu.errors import GpuUnavailable
from frontend.triton.errors import NotLoaded, Unavailable
from frontend.triton.state import ModelState
from model_boss import LedgerUnavailable, Standing, Tenure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType

    from frontend.deadline import Deadline
    from frontend.gpu.decide import Decision, Observation
    from frontend.metrics import Metrics
    from frontend.triton.model_control import ModelControl
    from model_boss import GpuLedger

_LOG: Final = logging.getLogger("imajin_aesthetic.gpu")
_FAILURE_KEPT_S: Final = 1.0
_AGAIN_S: Final = 1.0
CLOSE_S: Final = 8.0  # with the grace of requests, less than a supervisor waits
CANCEL_S: Final = 2.0


class State(StrEnum):
    """The state of the model, as `/info` and `/health` show it."""

    UNLOADED = "unloaded"
    RESERVING = "reserving"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


@dataclass(frozen=True)
class KeeperOptions:
    """The operator's choices."""

    coordination: str
    """The name of the ledger's coordinator."""
    gpu: str
    holder: str
    """This frontend's name among the frontends of its Triton."""
    ttl_s: float
    priority: int
    vram_mb: Callable[[Collection[int]], int]
    """The memory of the served and of these loaded versions; raises `Unavailable` if none is
    served.
    """
    wait_s: float
    idle_release_s: float
    """0 means never."""
    fail_open: bool
    close_s: float = CLOSE_S
    """How long the end may take, to hand the model over or to unload it."""


@dataclass(frozen=True)
class Status:
    """The state of the model, who keeps it, and under which lease."""

    state: State
    gpu: str
    lease_id: str | None
    fence: int | None
    keeper: str | None
    """The frontend that loads and unloads the model."""
    priority: int
    vram_mb: int | None
    expires_in_s: float | None
    is_unprotected: bool
    outage: str | None
    """Why the ledger could not be reached the last time."""

    def __str__(self) -> str:
        if self.is_unprotected:
            return f"loaded without a lease (fail_open): {self.outage}"
        if self.fence is None:
            return f"{self.state}; a request has it loaded" if self.state is State.UNLOADED else self.state
        words = f"{self.state}, lease {self.lease_id}, fence {self.fence}, kept by {self.keeper}"
        if self.outage is not None and self.expires_in_s is not None:
            words += f"; the ledger is away, the lease lasts {self.expires_in_s} s more"
        return words


@dataclass(eq=False)
class _Turn:
    """A request that waits for the model."""

    future: asyncio.Future[bool]
    look: int
    """The last observation before it came; only a later one counts for it."""
    has_waited: bool = False


class Keeper:
    """Use as an async context manager; at its end the model is handed over or unloaded."""

    def __init__(
        self,
        ledger: GpuLedger,
        control: ModelControl,
        options: KeeperOptions,
        metrics: Metrics,
        *,
        on_loaded: Callable[[], None],
    ) -> None:
        """Prepare; `on_loaded` is called whenever the model may be another one than before."""
        self.coordination = options.coordination
        self._ledger = ledger
        self._options = options
        self._metrics = metrics
        self._on_loaded = on_loaded
        self._tenure = Tenure(ledger, fail_open=options.fail_open)
        self._driver = Driver(
            self._tenure,
            control,
            options,
            metrics,
            is_wanted=self._is_wanted,
            on_step=self._note_step,
            on_failure=self._fail,
        )
        self._state = State.UNLOADED
        self._turns: set[_Turn] = set()
        self._wanted_until_s = 0.0
        self._requested_at_s = -math.inf
        self._failure: tuple[float, Exception] | None = None
        self._task: asyncio.Task[None] | None = None
        for state in State:
            metrics.gpu_state.labels(state).set_function(partial(self._is_in, state))
        metrics.gpu_lease_held.set_function(lambda: self._tenure.lease is not None)
        metrics.gpu_unprotected.set_function(lambda: self._tenure.standing is Standing.UNPROTECTED)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._driver.is_closing = True
        self._driver.stir()
        # If something hangs, the lease simply expires.
        await asyncio.wait({self._task}, timeout=self._options.close_s)
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=CANCEL_S)
        await self._ledger.aclose()

    @property
    def state(self) -> State:
        """Return the state of the model."""
        return self._state

    @property
    def is_ready(self) -> bool:
        """Whether Triton had the model ready at the last look."""
        return self._state is State.READY

    def status(self) -> Status:
        """Report the state of the model."""
        tenure, options = self._tenure, self._options
        lease, others, claim = tenure.lease, tenure.others, tenure.claim
        is_ours = lease is not None
        expires_in_s = tenure.expires_in_s
        return Status(
            state=self._state,
            gpu=options.gpu,
            lease_id=None if claim is None or not (is_ours or others) else claim.lease_id,
            fence=lease.fence if lease is not None else others.fence if others is not None else None,
            keeper=options.holder if is_ours else others.holder if others is not None else None,
            priority=options.priority,
            vram_mb=None if lease is None or claim is None else lease.vram_mb or claim.vram_mb,
            expires_in_s=None if expires_in_s is None else round(expires_in_s, 3),
            is_unprotected=tenure.standing is Standing.UNPROTECTED,
            outage=tenure.outage,
        )

    def note_request(self) -> None:
        """Note that a request was scored just now."""
        self._requested_at_s = time.monotonic()

    def is_in_use(self, within_s: float) -> bool:
        """Tell whether a request of this frontend used the model within the last seconds."""
        return self.is_ready and time.monotonic() - self._requested_at_s < within_s

    def explains(self, error: Unavailable) -> bool:
        """Tell whether a request failed only because the model is not loaded."""
        return isinstance(error, NotLoaded) or not self.is_ready

    async def wake(self, deadline: Deadline) -> bool:
        """Have the model loaded; tell whether that took a wait.

        Raises:
            GpuUnavailable: no memory was granted, or nothing loaded, within the wait.
            Unavailable: Triton cannot be reached, or cannot load the model.
            DeadlineExceeded: the request's deadline passed before that.
        """
        if self._failure is not None and time.monotonic() - self._failure[0] < _FAILURE_KEPT_S:
            raise self._failure[1]
        if self._driver.is_closing:
            raise GpuUnavailable("the service is shutting down")
        remaining_s = deadline.remaining_s()
        wait_s = min(remaining_s, self._options.wait_s)
        turn = _Turn(asyncio.get_running_loop().create_future(), self._driver.looks)
        self._turns.add(turn)
        # Callers who are told 503 come back, so the place in the queue is kept for as long again.
        self._wanted_until_s = time.monotonic() + 2 * self._options.wait_s
        self._driver.stir()
        try:
            with self._metrics.gpu_wait_seconds.time():
                async with asyncio.timeout(wait_s):
                    return await turn.future
        except TimeoutError as error:
            if wait_s == remaining_s:
                raise DeadlineExceeded("the deadline passed while the request waited for the GPU") from error
            raise self._unavailable() from error
        finally:
            self._turns.discard(turn)

    async def find_trouble(self) -> str | None:
        """Return what keeps requests from the GPU, if anything but its being in use does."""
        if self.is_ready:
            return None
        trouble = self._driver.trouble
        if trouble is not None and not self._driver.has_timed_out:
            return trouble.detail
        try:
            claimed_mb = self._options.vram_mb(())
            room_mb = await self._ledger.room_mb(self._options.gpu)
        except Unavailable as error:
            return error.detail
        except LedgerUnavailable:
            return "the GPU's ledger cannot be reached"
        return _find_missing(claimed_mb, room_mb)

    async def _watch(self) -> None:
        """Drive the model; an unexpected failure is logged, and driving begins again."""
        while True:
            try:
                await self._driver.run()
            except Exception:  # noqa: BLE001 - the outermost frame of this task
                _LOG.exception("the keeper failed, and begins again in %g s", _AGAIN_S)
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    def _is_in(self, state: State) -> bool:
        return self._state is state

    def _is_wanted(self) -> bool:
        return bool(self._turns) or time.monotonic() < self._wanted_until_s

    def _note_step(self, seen: Observation, decision: Decision) -> None:
        before, self._state = self._state, self._state_of(seen, decision)
        if self._state is State.READY:
            if before is not State.READY:
                self._on_loaded()
                self._failure = None
                _LOG.info("model ready")
            self._wanted_until_s = 0.0
        trouble = self._driver.trouble
        if trouble is not None and not self._driver.has_timed_out:
            self._fail(trouble)
        for turn in self._turns:
            if self._state is not State.READY:
                turn.has_waited = True
            elif self._driver.looks > turn.look and not turn.future.done():
                turn.future.set_result(turn.has_waited)

    def _state_of(self, seen: Observation, decision: Decision) -> State:
        match seen.model:
            case ModelState.SILENT:
                return self._state
            case ModelState.LOADING | ModelState.PART:
                return State.LOADING
            case ModelState.UNLOADING:
                return State.UNLOADING
            case ModelState.READY:
                goes = decision.action is Action.UNLOAD or self._driver.is_unloading
                return State.UNLOADING if goes else State.READY
        if decision.action is Action.LOAD or (seen.is_busy and seen.standing is Standing.RESERVED):
            return State.LOADING
        return State.RESERVING if seen.is_wanted and seen.model is ModelState.ABSENT else State.UNLOADED

    def _fail(self, error: ServiceError) -> None:
        if self._turns:
            _LOG.warning("no model: %s", error.internal or error.detail)
            self._failure = (time.monotonic(), error)
        self._wanted_until_s = 0.0
        for turn in self._turns:
            if not turn.future.done():
                turn.future.set_exception(error)

    def _unavailable(self) -> GpuUnavailable:
        if self._tenure.outage is not None and not self._tenure.expires_in_s:
            detail = "the GPU's ledger cannot be reached"
        elif self._state is State.LOADING:
            detail = "the model is still being loaded"
        else:
            detail = f"no GPU memory was granted within {self._options.wait_s:g} s"
        internal = f"{self._state}, lease {self._tenure.standing}, {self._tenure.outage}"
        return GpuUnavailable(detail, internal=internal)


def _find_missing(claimed_mb: int, room_mb: int | None) -> str | None:
    if room_mb is None:
        return "nobody has told the GPU's ledger how much memory the GPU has"
    if claimed_mb > room_mb:
        return f"the model is said to need {claimed_mb} MiB, and the GPU's ledger can give {room_mb} MiB"
    return None
