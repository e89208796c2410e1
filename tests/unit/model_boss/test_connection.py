"""Redis URLs, as far as they can be read without a Redis."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from model_boss.connection import Connection, parse_sentinel_url
from model_boss.errors import InvalidUrl


def test_a_sentinel_url_names_hosts_service_and_credentials() -> None:
    """User, password and database in a Sentinel URL are for the Redis servers.

    The Sentinels have credentials of their own.
    """
    parsed = parse_sentinel_url(
        "redis+sentinel://boss:p%40ss@one:1001,[::1]:1002,three/main/4"
        "?sentinel_username=watch&sentinel_password=w&health_check_interval=5"
    )
    assert parsed.sentinels == (("one", 1001), ("::1", 1002), ("three", 26379))
    assert parsed.service == "main"
    assert dict(parsed.redis_options) == {
        "username": "boss",
        "password": "p@ss",
        "db": 4,
        "health_check_interval": 5,
    }
    assert dict(parsed.sentinel_options) == {"username": "watch", "password": "w"}


def test_a_sentinel_url_over_tls_asks_both_for_it() -> None:
    """With `rediss+sentinel`, the named certificates are checked at the Sentinels and at Redis."""
    parsed = parse_sentinel_url("rediss+sentinel://:p@one/main?ssl_ca_certs=/ca.pem")
    assert dict(parsed.redis_options) == {"password": "p", "ssl": True, "ssl_ca_certs": "/ca.pem"}
    assert dict(parsed.sentinel_options) == {"ssl": True, "ssl_ca_certs": "/ca.pem"}


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel:///main",
        "redis+sentinel://one",
        "redis+sentinel://one/main/four",
        "redis+sentinel://one:port/main",
        "redis+sentinel://one,/main",
        "redis+sentinel://one/main?socket_timeout=soon",
        "other+sentinel://one/main",
        "http://one",
        "redis://one?socket_timeout=soon",
    ],
)
def test_a_url_that_says_too_little_is_refused(url: str) -> None:
    """A senseless URL fails when the service starts, and not with its first request."""
    with pytest.raises(InvalidUrl):
        Connection(url, timeout_s=1)


async def test_urls_of_redis_py_reach_its_connections() -> None:
    """URLs with TLS certificates, ACL users, databases and sockets are read by redis-py."""
    tls = Connection("rediss://boss:p%40ss@one:7000/3?ssl_ca_certs=/ca.pem", timeout_s=1)
    pool = tls.redis.connection_pool
    assert pool.connection_class is SSLConnection
    options = pool.connection_kwargs
    assert (options["username"], options["password"], options["db"]) == ("boss", "p@ss", 3)
    assert options["ssl_ca_certs"] == "/ca.pem"
    unix = Connection("unix:///tmp/redis.sock?db=2", timeout_s=1)
    assert unix.redis.connection_pool.connection_class is UnixDomainSocketConnection
    await tls.aclose()
    await unix.aclose()


async def test_every_connection_has_deadlines() -> None:
    """Neither connecting nor reading waits longer than the ledger's deadline."""
    for url in ("redis://one", "redis+sentinel://one/main"):
        connection = Connection(url, timeout_s=0.7)
        options = connection.redis.connection_pool.connection_kwargs
        assert options["socket_timeout"] == options["socket_connect_timeout"] == 0.7
        await connection.aclose()
