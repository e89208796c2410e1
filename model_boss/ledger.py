"""The ledger in Redis: one method for each script, each a single atomic step.

    async with Ledger.connect("redis://localhost") as ledger:
        answer = await ledger.reserve(Claim("GPU-0", "diffusion-1", "diffusion", "sdxl", vram_mb=9000))

Nothing here waits, repeats or remembers: that is `Lease`. Every method may raise `LedgerUnavailable`, at
the latest after `LedgerOptions.timeout_s`, and every one may be called again when it did.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar

from redis.exceptions import NoScriptError, RedisError

from model_boss.claim import Answer, Capacity, Claim, Granted, Held, Phase, Renewal, Waiting, WaitReason
from model_boss.connection import Connection
from model_boss.errors import (
    CapacityUnknown,
    ClaimConflict,
    ClaimRefused,
    ClaimTooLarge,
    LedgerUnavailable,
    TtlMismatch,
)
from model_boss.keys import Keys, gpu_of
from model_boss.options import LedgerOptions
from model_boss.protocol import (
    CANCEL,
    CAPACITY,
    COMMIT,
    HAND_OVER,
    RELEASE,
    RENEW,
    RESERVE,
    STATUS,
    YIELD,
    Script,
    compose,
)
from model_boss.table import Table, read_table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from model_boss.memory import Meter
    from model_boss.protocol import Text

_Reply = TypeVar("_Reply")


class Ledger:
    """The leases of all GPUs that one Redis keeps account of."""

    def __init__(
        self,
        connection: Connection,
        options: LedgerOptions | None = None,
        composed: Callable[[Script], Text] = compose,
    ) -> None:
        """Use `connect`, unless the scripts are to be composed in another way, as tests do."""
        self.options = options or LedgerOptions()
        self._connection = connection
        self._composed = composed

    @classmethod
    def connect(cls, url: str, options: LedgerOptions | None = None) -> Self:
        """Open a ledger; the first call connects.

        Raises:
            InvalidUrl: of a kind that `connection` does not read.
        """
        options = options or LedgerOptions()
        return cls(Connection(url, options.timeout_s), options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; leases that are held live on for their time to live."""
        await self._connection.aclose()

    async def reserve(self, claim: Claim) -> Granted | Held | Waiting:
        """Claim memory, or keep the claim's place in the queue. Idempotent by lease id and holder.

        Raises:
            ClaimRefused: waiting would not help; the subclass says why.
        """
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
            fence, phase, used_mb, total_mb, margin_mb = rest
            capacity = Capacity(total_mb, margin_mb) if total_mb else None
            return Granted(fence, Phase(phase), _or_none(used_mb), capacity)
        if word == "held":
            return Held(rest[0], rest[1], Phase(rest[2]))
        if word == "waiting":
            return Waiting(rest[0], WaitReason(rest[1]))
        raise self._refusal(word, rest, claim)

    async def renew(
        self,
        claim: Claim,
        fence: int,
        *,
        phase: Phase,
        in_use: bool = False,
        used_mb: int | None = None,
        capacity: Capacity | None = None,
    ) -> Renewal:
        """Hold the lease for one more time to live.

        Args:
            claim: as it was granted.
            fence: the token it was granted under.
            in_use: since the last call; a lease that is not used for a time to live counts as idle.
            phase: as the holder knows it; this and what follows admits it again where Redis forgot it.
            used_mb: as committed; `None` while nothing is.
            capacity: as granted.

        Raises:
            TtlMismatch: the ledger runs with another time to live.
        """
        word, *rest = await self._call(
            RENEW,
            claim.gpu,
            lease_id=claim.lease_id,
            owner=claim.owner,
            holder=claim.holder,
            fence=fence,
            ttl_ms=self.options.ttl_ms,
            in_use=int(in_use),
            model=claim.model,
            vram_mb=claim.vram_mb,
            priority=int(claim.priority),
            phase=phase,
            used_mb=_or_empty(used_mb),
            total_mb=capacity.total_mb if capacity else "",
            margin_mb=capacity.margin_mb if capacity else "",
        )
        if word == "ttl_mismatch":
            raise self._refusal(word, rest, claim)
        if not rest:
            return Renewal(Answer(word), None, None, 0)
        return Renewal(Answer(word), Phase(rest[0]), _or_none(rest[1]), rest[2] / 1000)

    async def commit(self, claim: Claim, fence: int, used_mb: int | None = None) -> Answer:
        """Say that the memory is in use now, and how much of it if that was measured."""
        return await self._fenced(COMMIT, claim, fence, used_mb=_or_empty(used_mb))

    async def hand_over(self, claim: Claim, fence: int) -> Answer:
        """Let the next process that asks for this lease hold it, at once and without freeing the memory."""
        return await self._fenced(HAND_OVER, claim, fence)

    async def release(self, claim: Claim, fence: int) -> Answer:
        """Give the memory back, once it is unloaded; `LOST` where it was no longer held."""
        return await self._fenced(RELEASE, claim, fence)

    async def cancel(self, claim: Claim) -> Answer:
        """Leave the queue; `LOST` where the claim does not wait, or no longer."""
        return Answer((await self._call(CANCEL, claim.gpu, lease_id=claim.lease_id, owner=claim.owner))[0])

    async def ask_to_yield(self, gpu: str, lease_id: str) -> Answer:
        """Ask a holder for its memory, whatever its priority; `LOST` where nobody holds that lease."""
        return Answer((await self._call(YIELD, gpu, lease_id=lease_id))[0])

    async def table(self, gpu: str) -> Table:
        """Report what is held of this GPU, and who waits."""
        _, now_ms, ledger, *leases = await self._call(STATUS, gpu)
        return read_table(gpu, now_ms, ledger, leases)

    async def gpus(self) -> list[str]:
        """Find the GPUs that this ledger has ever heard of. Reads the names of all keys: a tool's call."""
        pattern = f"{self.options.prefix}:{{*}}:"
        keys = [
            key
            for name in ("capacity", "epoch")
            for key in await self._in_time(self._matching(pattern + name))
        ]
        return sorted({gpu_of(key) for key in keys})

    async def set_capacity(self, gpu: str, capacity: Capacity) -> None:
        """Set by hand how much memory a GPU has."""
        await self._set_capacity(gpu, capacity, measured=0, used_mb="", measured_at_ms="")

    async def measure(self, gpu: str, meter: Meter, margin_mb: int) -> Capacity | None:
        """Measure the GPU and tell the ledger how much everybody uses of it.

        A total and a margin that are set already stay as they are.

        Returns:
            What the ledger goes by; `None` where the meter cannot see this GPU.

        Raises:
            TimeoutError: the meter hangs.
        """
        # A lease that is loaded after this time is not subtracted from what the meter reads.
        measured_at_ms = (await self.table(gpu)).now_ms
        async with asyncio.timeout(self.options.timeout_s):
            memory = await asyncio.to_thread(meter.read, gpu)
        if memory is None:
            return None
        capacity = Capacity(memory.total_mb, min(margin_mb, memory.total_mb))
        return await self._set_capacity(
            gpu, capacity, measured=1, used_mb=memory.used_mb, measured_at_ms=measured_at_ms
        )

    async def _set_capacity(self, gpu: str, capacity: Capacity, **measurement: int | str) -> Capacity:
        total = {"total_mb": capacity.total_mb, "margin_mb": capacity.margin_mb}
        _, total_mb, margin_mb = await self._call(CAPACITY, gpu, **total, **measurement)
        return Capacity(total_mb, margin_mb)

    async def _fenced(self, script: Script, claim: Claim, fence: int, **more: int | str) -> Answer:
        reply = await self._call(
            script, claim.gpu, lease_id=claim.lease_id, owner=claim.owner, fence=fence, **more
        )
        return Answer(reply[0])

    async def _call(self, script: Script, gpu: str, **arguments: int | str) -> list[Any]:
        if tuple(arguments) != script.arguments:
            raise TypeError(f"{script.name} takes {script.arguments}, not {tuple(arguments)}")
        keys = Keys.of(self.options.prefix, gpu).ordered()
        return await self._in_time(self._run(script, keys, tuple(arguments.values())))

    async def _run(
        self, script: Script, keys: tuple[str, ...], arguments: tuple[int | str, ...]
    ) -> list[Any]:
        redis, text = self._connection.redis, self._composed(script)
        try:
            reply: list[Any] = await redis.evalsha(text.sha1, len(keys), *keys, *arguments)
        except NoScriptError:  # a new server, or one that was restarted
            reply = await redis.eval(text.lua, len(keys), *keys, *arguments)
        return reply

    async def _matching(self, pattern: str) -> list[str]:
        return [key async for key in self._connection.redis.scan_iter(match=pattern, count=1000)]

    async def _in_time(self, call: Awaitable[_Reply]) -> _Reply:
        try:
            async with asyncio.timeout(self.options.timeout_s):
                return await call
        except TimeoutError as error:
            raise LedgerUnavailable(f"no answer within {self.options.timeout_s:g} s") from error
        except (RedisError, OSError) as error:
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error

    def _refusal(self, word: str, rest: list[Any], claim: Claim) -> ClaimRefused:
        if word == "conflict":
            return ClaimConflict(f"lease {claim.lease_id} belongs to another owner, or to another claim")
        if word == "too_large":
            return ClaimTooLarge(f"{claim.vram_mb} MiB claimed, {claim.gpu} can give {rest[0]} MiB")
        if word == "ttl_mismatch":
            return TtlMismatch(f"the ledger of {claim.gpu} runs with {rest[0]} ms, not {self.options.ttl_ms}")
        return CapacityUnknown(f"nobody has said how much memory {claim.gpu} has")


def _or_empty(value: int | None) -> int | str:
    return "" if value is None else value


def _or_none(value: int | str) -> int | None:
    return None if value == "" else int(value)
