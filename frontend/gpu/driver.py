"""Observes, decides, acts, and observes again: only this module loads and unloads the model.

A load or an unload takes time and runs beside the steps, so that heartbeats go on. A crash may
leave any state behind, here, in Triton or in the ledger; `decide` has a row for each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from frontend.errors import DeadlineExceeded
from frontend.gpu.decide import Action, Decision, Observation, decide, is_over
from frontend.gpu.errors import GpuUnavailable
from frontend.triton import calls
from frontend.triton.errors import TimedOut, Unavailable
from frontend.triton.state import ModelState
from model_boss import Claim, Standing
from reward.contract import LEASE_OWNER, NETWORK

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from frontend.errors import ServiceError
    from frontend.gpu.keeper import KeeperOptions
    from frontend.metrics import Metrics
    from frontend.triton.model_control import ModelControl
    from model_boss import Tenure

_LOG: Final = logging.getLogger("imajin_aesthetic.gpu")
_LOOK_S: Final = 1.0
_URGENT_LOOK_S: Final = 0.1
_AGAIN_S: Final = 1.0
_DEFAULT_SERVER_ID: Final = "triton"


class Driver:
    """Take one step after the other until this frontend ends."""

    def __init__(
        self,
        tenure: Tenure,
        control: ModelControl,
        options: KeeperOptions,
        metrics: Metrics,
        *,
        is_wanted: Callable[[], bool],
        on_step: Callable[[Observation, Decision], None],
        on_failure: Callable[[ServiceError], None],
    ) -> None:
        """Prepare; `on_step` follows every step, `on_failure` gets the reason why requests fail."""
        self.is_closing = False
        self.looks = 0
        """How many observations have begun."""
        self.trouble: Unavailable | None = None
        """Why Triton did not tell the state of the model."""
        self.is_unloading = False
        self._tenure = tenure
        self._control = control
        self._options = options
        self._metrics = metrics
        self._is_wanted = is_wanted
        self._on_step = on_step
        self._on_failure = on_failure
        self._stirred = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._work_again_at_s = 0.0
        self._has_failed = False
        self._model = ModelState.SILENT
        self._ran_at_ms: int | None = None
        self._used_at_s = time.monotonic()
        self._is_in_use = False
        self._may_unload_unproven = True

    def stir(self) -> None:
        """Take the next step now."""
        self._stirred.set()

    async def run(self) -> None:
        """Step until this frontend ends and nothing is left to do."""
        try:
            while True:
                seen = await self._observe()
                decision = decide(seen)
                self._on_step(seen, decision)
                if is_over(seen, decision):
                    return
                await self._carry_out(decision)
                if self._tenure.standing is seen.standing:  # else there is more to do at once
                    await self._pause()
                _stop_if_cancelled()
        finally:
            if self._work is not None:
                self._work.cancel()
                self._work = None

    async def _observe(self) -> Observation:
        self.looks += 1
        self._end_work()
        renewed, model = await asyncio.gather(self._tenure.beat(in_use=self._is_in_use), self._look())
        if renewed:
            self._is_in_use = False
        if model is not self._model:
            self._model = model
            self._tenure.forget_answer()
        await self._look_for_use()
        tenure, options = self._tenure, self._options
        self._need()
        if tenure.outage is None:
            self._may_unload_unproven = True
        is_long_away = tenure.outage_s > options.ttl_s and not options.fail_open
        is_wanted = self._is_wanted()
        return Observation(
            standing=tenure.standing,
            model=model,
            is_busy=self._work is not None or time.monotonic() < self._work_again_at_s,
            is_wanted=is_wanted,
            is_idle=not is_wanted and 0 < options.idle_release_s <= time.monotonic() - self._used_at_s,
            is_closing=self.is_closing,
            others_stand_by=tenure.lease is not None and tenure.lease.others_stand_by,
            handed_over=tenure.handed_over,
            has_failed=self._has_failed,
            is_due=tenure.due_in_s(is_urgent=self._is_urgent()) <= 0,
            is_unproven=is_long_away and self._may_unload_unproven,
        )

    def _need(self) -> None:
        """Claim what everything that is loaded now takes; another version may be there, too."""
        if self._model is ModelState.READY and self._tenure.lease is not None:
            with suppress(Unavailable):
                self._tenure.need(self._options.vram_mb(self._control.loaded))

    async def _look(self) -> ModelState:
        timeout_s = max(0.5, min(2.0, self._options.ttl_s / 6))
        try:
            model = await self._control.look(timeout_s)
        except Unavailable as error:
            self.trouble = error
            return ModelState.DOWN if calls.is_nobody_there(error) else ModelState.SILENT
        self.trouble = None
        return model

    @property
    def has_timed_out(self) -> bool:
        """Whether Triton is only late: it may be loading."""
        return self.trouble is not None and isinstance(self.trouble.__cause__, (DeadlineExceeded, TimedOut))

    async def _look_for_use(self) -> None:
        """See whether the model was used, through REST or Triton itself: Triton counts both."""
        if self._model is not ModelState.READY:
            self._ran_at_ms = None
            self._used_at_s = time.monotonic()
            return
        if self._tenure.lease is None:
            return
        try:
            ran_at_ms = await self._control.last_inference_ms(0.5)
        except Unavailable:
            return
        if ran_at_ms != self._ran_at_ms:
            self._ran_at_ms, self._used_at_s, self._is_in_use = ran_at_ms, time.monotonic(), True

    async def _carry_out(self, decision: Decision) -> None:
        action, tenure = decision.action, self._tenure
        _LOG.debug("keeper: %s, %s", action, decision.reason)
        match action:
            case Action.RESERVE:
                await self._reserve()
            case Action.LOAD:
                self.is_unloading = False
                self._begin(self._load())
            case Action.COMMIT:
                await tenure.commit()
            case Action.UNLOAD:
                self._end(decision.reason)
                self.is_unloading = True
                self._begin(self._unload(decision.reason))
            case Action.RELEASE:
                if decision.reason:
                    self._end(decision.reason)
                await tenure.release()
                self._has_failed = False
            case Action.HAND_OVER:
                self._end("handed-over")
                await tenure.hand_over()

    async def _reserve(self) -> None:
        try:
            claim = await self._claim()
        except Unavailable as error:
            self.trouble = error
            self._on_failure(error)
            return
        await self._tenure.ask(claim)
        refusal = self._tenure.refusal
        if refusal is not None:
            self._on_failure(GpuUnavailable("the GPU's ledger refuses this service", internal=str(refusal)))

    async def _claim(self) -> Claim:
        """Compose the claim; a lease that is held keeps the claim with which it was asked for."""
        if self._tenure.lease is not None and self._tenure.claim is not None:
            return self._tenure.claim
        server_id = await self._control.server_id()
        if server_id == _DEFAULT_SERVER_ID:
            _LOG.warning("Triton runs under its default id: two of them on one GPU would share one lease")
        options = self._options
        needed_mb, priority = options.vram_mb(self._control.loaded), options.priority
        return Claim(options.gpu, server_id, LEASE_OWNER, NETWORK.name, needed_mb, priority, options.holder)

    async def _load(self) -> None:
        _LOG.info("lease %s: model loading", self._lease_id)
        with self._metrics.gpu_load_seconds.time():
            await self._control.load()

    async def _unload(self, reason: str) -> None:
        _LOG.info("lease %s: model unloading, %s", self._lease_id, reason)
        with self._metrics.gpu_unload_seconds.time():
            await self._control.unload()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        self._work = asyncio.create_task(work)
        self._work.add_done_callback(lambda _: self.stir())

    def _end_work(self) -> None:
        """Note how a load or an unload ended."""
        work = self._work
        if work is None or not work.done():
            return
        self._work = None
        try:
            work.result()
            self.is_unloading = False
        except Unavailable as error:
            _LOG.warning("lease %s: %s; %s", self._lease_id, error, error.internal)
            self._work_again_at_s = time.monotonic() + _AGAIN_S
            if self._tenure.standing is Standing.RESERVED:
                self._has_failed = True
                self._work_again_at_s = 0.0
                self._end("failed")
            self._on_failure(error)

    def _end(self, reason: str) -> None:
        """Count why the model was unloaded or not loaded."""
        if self._tenure.standing in (Standing.NONE, Standing.LOST):
            self._may_unload_unproven = False
        self._metrics.gpu_endings.labels(reason).inc()
        _LOG.info("lease %s: model goes, %s", self._lease_id, reason)

    async def _pause(self) -> None:
        """Wait until something happens or it is time to look again."""
        look_s = min(_LOOK_S, self._options.idle_release_s / 4 or _LOOK_S)
        is_moving = self._model in (ModelState.LOADING, ModelState.UNLOADING) and self._work is None
        if is_moving or self._is_urgent():
            look_s = _URGENT_LOOK_S
        due_s = max(0.01, self._tenure.due_in_s(is_urgent=self._is_urgent()))
        try:
            async with asyncio.timeout(min(look_s, due_s)):
                await self._stirred.wait()
        except TimeoutError:
            pass
        self._stirred.clear()

    def _is_urgent(self) -> bool:
        return self._is_wanted() and self._model is not ModelState.READY

    @property
    def _lease_id(self) -> str:
        return "-" if self._tenure.claim is None else self._tenure.claim.lease_id


def _stop_if_cancelled() -> None:
    """End if a cancellation was lost: a library of another coordinator's may swallow it, too."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
