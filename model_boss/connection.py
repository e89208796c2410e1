"""A Redis URL -> a client with deadlines, reached directly or through Sentinel.

    redis://[[user]:password@]host[:port][/db][?option=value]
    rediss://...                                              the same over TLS
    unix://[[user]:password@]/path/to/socket[?db=0]
    redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/db][?option=value]
    rediss+sentinel://...                                     the same over TLS

The first three are redis-py's own, with its options (`ssl_ca_certs`, `ssl_certfile`, ...). The other two
are read here: user and password are those of the Redis servers, and `sentinel_username` and
`sentinel_password` among the options those of the Sentinels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from model_boss.errors import InvalidUrl

if TYPE_CHECKING:
    from collections.abc import Mapping

SENTINEL_PORT: Final = 26379
# Not `urlsplit`: it refuses a bracketed address that does not begin the host, as the second of a list does not.
_SENTINEL_URL: Final = re.compile(
    r"(?P<scheme>rediss?\+sentinel)://(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class SentinelUrl:
    """What a URL says about a Redis behind Sentinels."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    redis_options: Mapping[str, Any]
    sentinel_options: Mapping[str, Any]


class Connection:
    """A client, and all that has to be closed with it."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Connect to nothing yet.

        Raises:
            InvalidUrl: of no supported kind, or damaged.
        """
        # One retry, at once: after a restart of Redis the pool hands out a connection that is dead.
        options: dict[str, Any] = {
            "decode_responses": True,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 1),
        }
        self._sentinel: Sentinel | None = None
        self.redis: Redis
        if url.partition("://")[0].endswith("+sentinel"):
            parsed = parse_sentinel_url(url)
            timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                parsed.sentinels, sentinel_kwargs={**timeouts, **parsed.sentinel_options}
            )
            self.redis = self._sentinel.master_for(parsed.service, **{**options, **parsed.redis_options})
            return
        try:
            self.redis = Redis.from_url(url, **options)
        except ValueError as error:
            raise InvalidUrl(str(error)) from error

    async def aclose(self) -> None:
        await self.redis.aclose()
        for sentinel in self._sentinel.sentinels if self._sentinel else []:
            await sentinel.aclose()


def parse_sentinel_url(url: str) -> SentinelUrl:
    """Read a `redis+sentinel://` or `rediss+sentinel://` URL.

    Raises:
        InvalidUrl: it names no host or no service, or an option has no sense.
    """
    parts = _SENTINEL_URL.fullmatch(url)
    if parts is None:
        scheme = url.partition("://")[0]
        raise InvalidUrl(f"{scheme}:// is not one of redis+sentinel://, rediss+sentinel://")
    credentials, _, hosts = parts["netloc"].rpartition("@")
    service, _, db = parts["path"].strip("/").partition("/")
    if not hosts or not service:
        raise InvalidUrl(
            "a Sentinel URL names its hosts and its service: redis+sentinel://host:26379/service"
        )
    if db and not db.isdecimal():
        raise InvalidUrl(f"the database of a Sentinel URL is a number, not {db!r}")
    try:
        # redis-py reads the options, under the types it wants them in.
        options = dict(parse_url(f"redis://?{parts['query'] or ''}"))
    except ValueError as error:
        raise InvalidUrl(str(error)) from error
    user, _, password = credentials.partition(":")
    sentinel_options = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in list(options)
        if name.startswith("sentinel_")
    }
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if parts["scheme"] == "rediss+sentinel":
        tls["ssl"] = True
    options |= tls
    for name, value in (("username", user), ("password", password), ("db", db)):
        if value:
            options[name] = int(value) if name == "db" else unquote(value)
    return SentinelUrl(
        tuple(_address(host) for host in hosts.split(",")), unquote(service), options, tls | sentinel_options
    )


def _address(host: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidUrl(f"{host!r} is not host:port") from error
    if not name:
        raise InvalidUrl(f"{host!r} is not host:port")
    return name, port or SENTINEL_PORT
