"""One client of `test_processes.py`, as a process: it claims, holds and releases, again and again.

It writes a line of JSON for everything it does, with the time of the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from contextlib import suppress

from model_boss import Claim, Lease, Ledger, LedgerOptions
from tests.integration.model_boss.turns import lease_id_of


def tell(event: str, lease_id: str, **more: float) -> None:
    sys.stdout.write(json.dumps({"event": event, "lease": lease_id, "at_s": time.monotonic(), **more}) + "\n")
    sys.stdout.flush()


async def contend(url: str, name: str, gpu: str, ttl_s: float, until_s: float) -> None:
    """Hold this GPU as often as it is granted, until the machine's clock reaches `until_s`."""
    chance = random.Random(name)
    async with Ledger(url, LedgerOptions(ttl_s=ttl_s)) as ledger:
        number = 0
        while time.monotonic() < until_s:
            number += 1
            vram_mb, priority = chance.choice([3, 5, 8, 11]), chance.choice([1, 1, 2])
            claim = Claim(gpu, lease_id_of(name, number, priority), name, "model", vram_mb, priority)
            tell("waits", claim.lease_id)
            async with Lease(ledger, claim) as lease:
                await lease.wait_granted(60)
                tell("holds", claim.lease_id, vram_mb=vram_mb)
                await asyncio.sleep(chance.uniform(0, 0.1))  # loads
                await lease.commit()
                for_s = chance.choice([0.1, 0.2, 0.3, 0.4, 0.6 * ttl_s])  # the last is renewed meanwhile
                with suppress(TimeoutError):
                    await asyncio.wait_for(lease.wait_ending(), for_s)
                tell("frees", claim.lease_id)


if __name__ == "__main__":
    address, own_name, own_gpu, ttl, until = sys.argv[1:]
    asyncio.run(contend(address, own_name, own_gpu, float(ttl), float(until)))
