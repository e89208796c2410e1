"""Another server takes over: a replica that lags, and a real Sentinel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from model_boss import Lease, Standing, Waiting, WaitReason
from tests.integration.model_boss.proxy import Proxy
from tests.integration.model_boss.servers import RedisServer
from tests.integration.model_boss.test_ledger import GPU, claim, granted, opened
from tests.integration.model_boss.until import until

if TYPE_CHECKING:
    from pathlib import Path

    import redis


async def test_a_grant_that_the_replica_missed_is_not_given_twice(tmp_path: Path) -> None:
    """A replica that missed the last grant does not grant that memory again.

    As the new master it grants nothing until the holder is back.
    """
    with RedisServer(tmp_path) as master, RedisServer(tmp_path) as replica:
        async with Proxy(master.port) as replication, Proxy(master.port) as service:
            with replica.client() as client:
                client.replicaof("127.0.0.1", replication.port)
                await until(lambda: _field(client, "master_link_status") == "up")
                async with opened(service.url, ttl_s=4) as ledger:
                    seen = await granted(ledger, claim("seen", 2))
                    await until(lambda: client.hexists("model-boss:{GPU-0}:leases", "seen") == 1)
                    replication.drops = True
                    async with Lease(ledger, claim("missed", 16)) as missed:
                        fence = await missed.wait_granted(5)
                        await missed.commit()
                        master.kill()
                        client.replicaof("NO", "ONE")
                        service.target_port = replica.port
                        answer = await ledger.reserve(claim("new", 16))
                        assert answer == Waiting(0, WaitReason.GRACE)
                        await until(lambda: client.hexists("model-boss:{GPU-0}:leases", "missed") == 1)
                        held = {row.lease_id: row.fence for row in (await ledger.table(GPU)).leases}
                        assert held["missed"] == fence > seen
                        assert missed.standing is Standing.COMMITTED
                        await asyncio.sleep(4.5)
                        assert await ledger.reserve(claim("new", 16)) == Waiting(0, WaitReason.MEMORY)


async def test_sentinel_leads_to_the_new_master(tmp_path: Path) -> None:
    """A lease is held through a failover by a Sentinel, under the same fence."""
    with RedisServer(tmp_path) as master, RedisServer(tmp_path) as replica:
        with replica.client() as client:
            client.replicaof("127.0.0.1", master.port)
            await until(lambda: _field(client, "master_link_status") == "up")
        settings = tmp_path / "sentinel.conf"
        settings.write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 3000\n"
        )
        with RedisServer(tmp_path, config=settings) as sentinel:
            with sentinel.client() as client:
                await until(lambda: bool(client.execute_command("SENTINEL", "REPLICAS", "main")))
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
            async with (
                opened(url, ttl_s=6) as ledger,
                Lease(ledger, claim("a", 18)) as lease,
            ):
                fence = await lease.wait_granted(10)
                with replica.client() as client:
                    await until(lambda: client.hexists("model-boss:{GPU-0}:leases", "a") == 1)
                    new_server = client.info("server")["run_id"]
                    epoch = "model-boss:{GPU-0}:epoch"
                    assert client.hget(epoch, "server") != new_server
                    master.kill()
                    # The heartbeat itself finds the new master and begins an epoch there.
                    await until(lambda: client.hget(epoch, "server") == new_server)
                await until(lambda: lease.outage is None)
                assert (lease.fence, lease.is_held) == (fence, True)
                assert [row.fence for row in (await ledger.table(GPU)).leases] == [fence]


def _field(client: redis.Redis, name: str) -> object:
    return client.info("replication").get(name)
