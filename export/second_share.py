"""Memory for a second version on a shared GPU, while Triton loads it beside the served one.

    with second_share(settings, server_id=…, directory=…):   # NoSecondShare: no room for two
        triton.load(NETWORK)                                 # now both are loaded

At the end of the block, Triton's own lease, which a frontend holds, inherits the share. From then
on that frontend answers for both versions as long as both are loaded, and gives back what is not
(docs/decisions/second-share.md). If the block fails, the share is given back at once. If this
process is killed, the share ends by itself within one time to live.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from export.errors import NoSecondShare
from model_boss import Claim, InvalidClaim, Lease, LeaseLost, Ledger, ModelBossError, Nvml, SharedGpu
from reward import manifest
from reward.contract import LEASE_OWNER, NETWORK

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from pathlib import Path


class LedgerSettings(SharedGpu):
    """Who gives out the GPU's memory, as the frontends are told."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> LedgerSettings | None:
        """Read the variables of the frontend; return None if the GPU is not shared.

        Raises:
            NoSecondShare: they make no sense, or name a coordinator that this command cannot ask.
        """
        if environment.get("AESTHETIC_GPU_LEDGER"):
            raise NoSecondShare("another coordinator gives the GPU's memory out: use --replace")
        try:
            settings = cls.of(environment, "AESTHETIC")
        except InvalidClaim as error:
            raise NoSecondShare(f"the settings of the GPU's ledger: {error}") from error
        return settings if settings.url else None


@contextmanager
def second_share(settings: LedgerSettings | None, *, server_id: str, directory: Path) -> Iterator[None]:
    """Hold memory for a version that is loaded beside another.

    Args:
        settings: of the ledger; None if the GPU is not shared, and nobody is asked.
        server_id: Triton's `--id`, which is the id of its lease.
        directory: of the version that is loaded.

    Raises:
        NoSecondShare: the memory was not granted, or the ledger cannot be reached.
        VersionError: the version has no manifest.
    """
    if settings is None:
        yield
        return
    # The name tells that this is a share beside Triton's own lease, which it does not ask to yield.
    # After a killed command, whose share has yet to end, the name is another one.
    lease_id = f"{server_id}/{directory.name}-{uuid.uuid4().hex[:8]}"
    vram_mb = settings.vram_mb or manifest.read(directory).claimed_mb
    with _background_loop() as run:
        share = run(_granted(settings, lease_id, vram_mb))
        heir = ""
        try:
            yield
            heir = server_id
        finally:
            run(share.close(heir))


@dataclass(frozen=True)
class _Share:
    ledger: Ledger
    lease: Lease

    async def close(self, heir: str = "") -> None:
        if heir:
            with suppress(LeaseLost):
                await self.lease.commit()  # what the heir takes over is in use
        await self.lease.release(heir)
        await self.ledger.aclose()


async def _granted(settings: LedgerSettings, lease_id: str, vram_mb: int) -> _Share:
    try:
        claim = Claim(settings.gpu, lease_id, LEASE_OWNER, NETWORK.name, vram_mb, settings.priority)
        ledger = Ledger(str(settings.url), replace(settings.options, meter=Nvml()))
    except ModelBossError as error:
        raise NoSecondShare(f"the settings of the GPU's ledger: {error}") from error
    share = _Share(ledger, Lease(ledger, claim, is_always_in_use=True))
    try:
        await share.lease.wait_granted(settings.wait_s)
    except BaseException as error:
        await share.close()
        if isinstance(error, ModelBossError):
            reason = error.__cause__ or error
            raise NoSecondShare(
                f"no {vram_mb} MiB for a second version beside the one that is served ({reason}); "
                "--replace unloads that one first, and requests wait meanwhile"
            ) from error
        raise
    return share


@contextmanager
def _background_loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run coroutines, and heartbeats between them, while the caller's own code blocks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="second share", daemon=True)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
