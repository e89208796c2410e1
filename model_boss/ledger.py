"""The ledger in Redis: one method for each script, each a single atomic step.

    async with Ledger("redis://localhost") as ledger:
        claim = Claim("GPU-0", "diffusion-1", "diffusion", "sdxl", vram_mb=9000)
        answer = await ledger.reserve(claim)

Nothing here waits or repeats: `Lease` does. Every method may raise `LedgerUnavailable`, and may
then be called again. With a meter among its options, the ledger is told how much memory everybody
uses: before a claim, with heartbeats, and after a release.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from model_boss.claim import Capacity, Claim, Granted, Held, Phase, Waiting, WaitReason
from model_boss.errors import ClaimRefused, LedgerUnavailable
from model_boss.options import LedgerOptions
from model_boss.protocol import (
    CAPACITY,
    COMMIT,
    HAND_OVER,
    RELEASE,
    RENEW,
    RESERVE,
    STATUS,
    Keys,
    Script,
    compose,
    is_gpu,
)
from model_boss.table import Table, read_table
from model_boss.tenure import now_s

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from redis.commands.core import AsyncScript

_LOG: Final = logging.getLogger("model_boss")
_Reply = TypeVar("_Reply")


class Ledger:
    """The leases of all GPUs in one Redis."""

    def __init__(self, url: str, options: LedgerOptions | None = None) -> None:
        """Prepare; the first call connects.

        Raises:
            InvalidUrl: of a kind that `connection` does not read.
        """
        from model_boss.connection import Connection  # noqa: PLC0415 - redis only where it is asked

        self.options = options or LedgerOptions()
        self._connection = Connection(url, self.options.timeout_s)
        self._scripts: dict[Script, AsyncScript] = {}
        self._meter = self.options.meter
        self._measure_at_s: dict[str, float] = {}

    @property
    def ttl_s(self) -> float:
        """Return the time to live of every lease."""
        return self.options.ttl_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; held leases live on for their time to live."""
        await self._connection.aclose()

    async def reserve(self, claim: Claim) -> Granted | Held | Waiting:
        """Claim memory, or keep the claim's place in the queue. Idempotent by lease id and holder.

        Raises:
            ClaimRefused: waiting would not help.
        """
        await self.measure(claim.gpu)  # what was released since would look foreign
        word, *rest = await self._call(
            RESERVE,
            claim.gpu,
            lease_id=claim.lease_id,
            owner=claim.owner,
            holder=claim.holder,
            model=claim.model,
            vram_mb=claim.vram_mb,
            priority=int(claim.priority),
            ttl_ms=self.options.ttl_ms,
        )
        if word == "granted":
            fence, phase, used_mb, vram_mb, total_mb, margin_mb = rest
            capacity = Capacity(total_mb, margin_mb) if total_mb else None
            return Granted(fence, Phase(phase), _or_none(used_mb), vram_mb, capacity)
        if word == "held":
            return Held(rest[0], rest[1])
        if word == "waiting":
            return Waiting(rest[0], WaitReason(rest[1]))
        raise self._refusal(word, rest, claim)

    async def renew(self, claim: Claim, granted: Granted, *, in_use: bool = False) -> Granted | None:
        """Hold the lease for one more time to live; if Redis forgot it, it is admitted again.

        Args:
            claim: as it was granted, or with another `vram_mb` for what is needed now. The lease
                shrinks to that, or grows if there is room, and the answer says what it has.
            granted: the ledger's last answer. If this call returns `None`, the lease is lost.
            in_use: since the last call; a lease that is not used for one time to live counts as
                idle.

        Raises:
            ClaimRefused: the ledger runs with another time to live.
        """
        capacity = granted.capacity
        word, *rest = await self._call(
            RENEW,
            claim.gpu,
            lease_id=claim.lease_id,
            owner=claim.owner,
            holder=claim.holder,
            fence=granted.fence,
            ttl_ms=self.options.ttl_ms,
            in_use=int(in_use),
            model=claim.model,
            vram_mb=_size(claim, granted),
            priority=int(claim.priority),
            phase=granted.phase,
            used_mb=_or_empty(granted.used_mb),
            total_mb=capacity.total_mb if capacity else "",
            margin_mb=capacity.margin_mb if capacity else "",
            needs_mb=claim.vram_mb,
        )
        if word == "ttl_mismatch":
            raise self._refusal(word, rest, claim)
        if word == "lost":
            return None
        if now_s() >= self._measure_at_s.get(claim.gpu, 0.0):
            await self._measure_after(claim.gpu)
        phase, used_mb, wanted_ms, vram_mb = rest
        return replace(
            granted,
            phase=Phase(phase),
            used_mb=_or_none(used_mb),
            vram_mb=vram_mb,
            others_stand_by=wanted_ms > 0,
        )

    async def commit(self, claim: Claim, granted: Granted, used_mb: int | None = None) -> Granted | None:
        """Say that the memory is in use now, and how much if measured; `None` means lost."""
        word = await self._fenced(COMMIT, claim, granted.fence, used_mb=_or_empty(used_mb))
        if word == "lost":
            return None
        phase = Phase.YIELDING if word == "yield" else Phase.ACTIVE
        return replace(granted, phase=phase, used_mb=_size(claim, granted) if used_mb is None else used_mb)

    async def hand_over(self, claim: Claim, fence: int) -> bool:
        """Let the next process that asks for this lease hold it at once; the memory stays held."""
        return await self._fenced(HAND_OVER, claim, fence) == "ok"

    async def release(self, claim: Claim, fence: int = 0, heir: str = "") -> bool:
        """Give back the memory once the model is unloaded; without a fence, leave the queue.

        Args:
            claim: as it was granted.
            fence: the token it was granted under.
            heir: the id of another lease of this owner that takes over the memory as it is.

        Returns:
            Whether the lease was held under this fence, or waited.
        """
        answer = await self._fenced(RELEASE, claim, fence, heir=heir)
        if fence:
            await self._measure_after(claim.gpu)
        return answer == "ok"

    async def room_mb(self, gpu: str) -> int | None:
        """Return how much this GPU may give at most; `None` if nobody has said or measured it."""
        table = await self.table(gpu)
        if table.total_mb is not None:
            return table.total_mb - (table.margin_mb or 0)
        capacity = await self.measure(gpu)
        return None if capacity is None else capacity.total_mb - capacity.margin_mb

    async def table(self, gpu: str) -> Table:
        """Report what is held of this GPU, and who waits."""
        _, now_ms, ledger, *leases = await self._call(STATUS, gpu)
        return read_table(gpu, now_ms, ledger, leases)

    async def gpus(self) -> list[str]:
        """Find the GPUs of this ledger; a call for tools, since it reads the names of all keys."""
        pattern = f"{self.options.prefix}:{{*}}:"
        keys = [
            key
            for name in ("capacity", "epoch")
            for key in await self._in_time(self._matching(pattern + name))
        ]
        named = {key[key.index("{") + 1 : key.index("}")] for key in keys}
        return sorted(gpu for gpu in named if is_gpu(gpu))

    async def set_capacity(self, gpu: str, capacity: Capacity) -> None:
        """Set by hand how much memory a GPU has."""
        await self._set_capacity(gpu, capacity, measured=0, used_mb="", measured_at_ms="")

    async def measure(self, gpu: str) -> Capacity | None:
        """Measure the GPU, if there is a meter, and tell the ledger how much everybody uses.

        A total and a margin that are set already stay as they are. A meter that hangs is not asked
        again.

        Returns:
            The capacity that the ledger uses; `None` if no meter can see this GPU.
        """
        if self._meter is None:
            return None
        self._measure_at_s[gpu] = now_s() + self.ttl_s / 3
        # A lease that is loaded after this time is not subtracted from what the meter reads.
        measured_at_ms = (await self.table(gpu)).now_ms
        try:
            async with asyncio.timeout(self.options.timeout_s):
                memory = await asyncio.to_thread(self._meter.read, gpu)
        except TimeoutError:  # its thread cannot be stopped; start no more of them
            _LOG.warning("gpu %s is measured no more: the driver hangs", gpu)
            self._meter = None
            return None
        if memory is None:
            return None
        capacity = Capacity(memory.total_mb, min(self.options.margin_mb, memory.total_mb))
        return await self._set_capacity(
            gpu, capacity, measured=1, used_mb=memory.used_mb, measured_at_ms=measured_at_ms
        )

    async def _measure_after(self, gpu: str) -> None:
        """Measure after a call was answered; its answer counts, however the measurement ends."""
        with suppress(LedgerUnavailable):
            await self.measure(gpu)

    async def _set_capacity(self, gpu: str, capacity: Capacity, **measurement: int | str) -> Capacity:
        total = {"total_mb": capacity.total_mb, "margin_mb": capacity.margin_mb}
        _, total_mb, margin_mb = await self._call(CAPACITY, gpu, **total, **measurement)
        return Capacity(total_mb, margin_mb)

    async def _fenced(self, script: Script, claim: Claim, fence: int, **more: int | str) -> str:
        """Call a script that answers a lease's owner with one word."""
        reply = await self._call(
            script, claim.gpu, lease_id=claim.lease_id, owner=claim.owner, fence=fence, **more
        )
        return str(reply[0])

    async def _call(self, script: Script, gpu: str, **arguments: int | str) -> list[Any]:
        if tuple(arguments) != script.arguments:
            raise TypeError(f"{script.name} takes {script.arguments}, not {tuple(arguments)}")
        if script not in self._scripts:
            self._scripts[script] = self._connection.redis.register_script(compose(script))
        keys = Keys.of(self.options.prefix, gpu)
        reply: list[Any] = await self._in_time(self._scripts[script](keys, [*arguments.values()]))
        return reply

    async def _matching(self, pattern: str) -> list[str]:
        return [key async for key in self._connection.redis.scan_iter(match=pattern, count=1000)]

    async def _in_time(self, call: Awaitable[_Reply]) -> _Reply:
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        try:
            async with asyncio.timeout(self.options.timeout_s):
                return await call
        except TimeoutError as error:
            raise LedgerUnavailable(f"no answer within {self.options.timeout_s:g} s") from error
        except (self._connection.error, OSError) as error:
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error
        finally:
            # redis-py sends within `asyncio.wait_for`. In Python 3.11 that loses a cancellation
            # which comes just when the command has been sent.
            if task and task.cancelling() > cancelled:
                raise asyncio.CancelledError

    def _refusal(self, word: str, rest: list[Any], claim: Claim) -> ClaimRefused:
        limit = rest[0] if rest else None
        reasons = {
            "conflict": f"lease {claim.lease_id} belongs to another owner, or to another claim",
            "full": f"{limit} hold or wait for {claim.gpu} already",
            "too_large": f"{claim.vram_mb} MiB claimed, {claim.gpu} can give {limit} MiB",
            "ttl_mismatch": f"the ledger of {claim.gpu} runs with {limit} ms, not {self.options.ttl_ms}",
            "unknown_capacity": f"nobody has said how much memory {claim.gpu} has",
        }
        return ClaimRefused(reasons[word])


def _size(claim: Claim, granted: Granted) -> int:
    return claim.vram_mb if granted.vram_mb is None else granted.vram_mb


def _or_empty(value: int | None) -> int | str:
    return "" if value is None else value


def _or_none(value: int | str) -> int | None:
    return None if value == "" else int(value)
