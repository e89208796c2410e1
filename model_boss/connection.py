"""A Redis URL -> a client with deadlines, connected directly or through Sentinel.

    redis://[[user]:password@]host[:port][/db][?option=value]
    rediss://...                                              the same over TLS
    unix://[[user]:password@]/path/to/socket[?db=0]
    redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/db][?option=value]
    rediss+sentinel://...                                     the same over TLS

The first three are redis-py's own, with its options (`ssl_ca_certs`, `ssl_certfile`, ...). Of the
other two, only hosts and service are read here; redis-py reads the rest. User and password are
those of the Redis servers. The options `sentinel_username` and `sentinel_password` are those of the
Sentinels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from redis.asyncio import Redis, Sentinel
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from model_boss.errors import InvalidUrl

if TYPE_CHECKING:
    from collections.abc import Mapping

SENTINEL_PORT: Final = 26379
_SENTINEL_URL: Final = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?P<credentials>[^/?#]*@)?(?P<hosts>[^/?#@]+)"
    r"/(?P<service>[^/?#]+)(?P<db>/\d+)?/?(?P<query>\?[^#]*)?"
)


@dataclass(frozen=True)
class SentinelUrl:
    """What a URL says about a Redis behind Sentinels."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    redis_options: Mapping[str, Any]
    sentinel_options: Mapping[str, Any]


class Connection:
    """A client, and everything that has to be closed with it."""

    error: Final = RedisError
    """What a call raises, beside OSError, when Redis does not answer as it should."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Prepare; nothing is connected yet.

        Raises:
            InvalidUrl: of no supported kind, or damaged.
        """
        # There is one retry, at once: after a restart of Redis the pool hands out a dead
        # connection.
        options: dict[str, Any] = {
            "decode_responses": True,
            "encoding_errors": "replace",  # whoever else writes there may write no text
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
        InvalidUrl: it names no host or no service, or an option makes no sense.
    """
    parts = _SENTINEL_URL.fullmatch(url)
    if parts is None:
        form = "redis+sentinel://host:26379[,host...]/service[/db], or rediss+sentinel://"
        raise InvalidUrl(f"a Sentinel URL names its hosts and its service: {form}")
    scheme, credentials, db, query = (parts[name] or "" for name in ("scheme", "credentials", "db", "query"))
    try:
        sentinels = tuple(_address(host) for host in parts["hosts"].split(","))
        options = dict(parse_url(f"{scheme}://{credentials}{db}{query}"))
    except (ValueError, KeyError) as error:
        raise InvalidUrl(str(error)) from error
    options.pop("connection_class", None)
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if scheme == "rediss":
        tls["ssl"] = True
    own = {name: options.pop(name) for name in list(options) if name.startswith("sentinel_")}
    sentinel_options = {name.removeprefix("sentinel_"): value for name, value in own.items()}
    return SentinelUrl(sentinels, unquote(parts["service"]), options | tls, tls | sentinel_options)


def _address(host: str) -> tuple[str, int]:
    parts = parse_url(f"redis://{host}")
    return parts["host"], parts.get("port", SENTINEL_PORT)
