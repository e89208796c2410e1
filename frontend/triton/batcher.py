"""The rows of this process that wait for one version: they go to Triton together, in turn.

    nothing is being scored  --> a caller's rows go to Triton at once
    others are being scored  --> they wait; what waits goes together when the answer is there

Triton would join them as well. But what waits in its queue behind others may be left there for
half a second (docs/decisions/tritons-queue.md), and a request costs Triton and this process more
than a row does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from frontend.deadline import Deadline
from frontend.triton.errors import Rejected, TimedOut
from reward.contract import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from numpy.typing import NDArray

_OVERTAKEN_AFTER_S: Final = 5.0
"""What has no answer after this time may be lost, so others wait for it no longer."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows to be scored, and how Triton is asked."""

    tensors: tuple[NDArray[Any], ...]
    """(B, 3, 224, 224), (B, 35), (B, 35)."""
    deadline: Deadline
    priority: int
    request_id: str = ""
    headers: dict[str, str] | None = None

    def __len__(self) -> int:
        return len(self.tensors[0])


class Batcher:
    """The requests to one version, one at a time."""

    def __init__(
        self,
        send: Callable[[Batch], Awaitable[list[float]]],
        *,
        overtaken_after_s: float = _OVERTAKEN_AFTER_S,
    ) -> None:
        """Prepare; `send` asks Triton for a batch's rewards."""
        self.max_rows = MAX_BATCH
        """So many rows are joined at most."""
        self._send = send
        self._overtaken_after_s = overtaken_after_s
        self._waiting: deque[_Caller] = deque()
        self._requests: dict[asyncio.Task[None], list[_Caller]] = {}
        self._latest: asyncio.Task[None] | None = None
        """The request that those who wait are waiting for."""

    async def score(self, batch: Batch) -> list[float]:
        """Return the rewards of a batch: B of them.

        Raises:
            TritonError: what `send` raised; a `Rejected` is of this batch alone.
            TimedOut: the batch's deadline passed.
            DeadlineExceeded: it had passed before.
        """
        caller = _Caller(batch, asyncio.get_running_loop().create_future())
        try:
            async with batch.deadline.timeout():
                self._waiting.append(caller)
                self._send_next()
                return await caller.answer
        except TimeoutError as error:
            raise TimedOut("the deadline passed while the model was asked") from error
        finally:
            self._leave(caller)
            del caller  # a failure's traceback would keep it, and it the failure

    def _leave(self, caller: _Caller) -> None:
        """Give up what nobody waits for any more."""
        caller.answer.cancel()  # does nothing if it is there
        if caller in self._waiting:
            self._waiting.remove(caller)
        for request, callers in self._requests.items():
            if all(one.answer.done() for one in callers):
                request.cancel()

    def _send_next(self) -> None:
        if self._latest is not None or not self._waiting:
            return
        callers, rows = [self._waiting.popleft()], 0
        while self._waiting:
            rows += len(callers[-1].batch)
            if rows + len(self._waiting[0].batch) > self.max_rows:
                break
            callers.append(self._waiting.popleft())
        request = self._latest = asyncio.create_task(self._ask(callers))
        self._requests[request] = callers
        timer = asyncio.get_running_loop().call_later(self._overtaken_after_s, self._go_on_after, request)
        request.add_done_callback(lambda _: timer.cancel())
        request.add_done_callback(self._requests.pop)
        request.add_done_callback(self._go_on_after)

    def _go_on_after(self, request: asyncio.Task[None]) -> None:
        if request is self._latest:
            self._latest = None
            self._send_next()

    async def _ask(self, callers: Sequence[_Caller]) -> None:
        """Send one request for all; if it is refused, one for each, for it may be one's fault."""
        try:
            rewards = await self._send(_join([caller.batch for caller in callers]))
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers are to know
            if not isinstance(error, Rejected) or len(callers) == 1:
                _fail(callers, error)
                del callers  # the error's traceback would keep them, and they the error
                return
        else:
            for caller in callers:
                caller.succeed(rewards[: len(caller.batch)])
                rewards = rewards[len(caller.batch) :]
            return
        for caller in callers:
            await self._ask([caller])


@dataclass(frozen=True, eq=False)
class _Caller:
    batch: Batch
    answer: asyncio.Future[list[float]]

    def succeed(self, rewards: list[float]) -> None:
        if not self.answer.done():
            self.answer.set_result(rewards)


def _fail(callers: Sequence[_Caller], error: Exception) -> None:
    for caller in callers:
        if not caller.answer.done():
            caller.answer.set_exception(error)


def _join(batches: Sequence[Batch]) -> Batch:
    """Join batches; Triton may take as long as the most patient caller waits."""
    first = batches[0]
    if len(batches) == 1:
        return first
    columns = zip(*(batch.tensors for batch in batches), strict=True)
    return Batch(
        tuple(np.concatenate(column) for column in columns),
        deadline=Deadline(max(batch.deadline.at_s for batch in batches)),
        priority=min(batch.priority for batch in batches),
        request_id=first.request_id,
        headers=next((batch.headers for batch in batches if batch.headers), None),
    )
