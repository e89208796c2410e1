"""Guarded download: bytes of an image from a URL that somebody else wrote.

The address is checked as the socket is made (`_open_socket`), on the very address dialled, whether it came
from the resolver or stood in the URL: there is no second lookup that could answer differently.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from frontend.errors import DeadlineExceeded, ServiceError
from frontend.images import addresses
from frontend.images.addresses import Address, AllowEntry, Gate, Mode, Reason, Refused, Target
from frontend.images.errors import ImageUnreachable, ImageUrlForbidden, too_large

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

_HEADERS: Final = {
    "User-Agent": "imajin-aesthetic",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # image formats are compressed already
}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_LOOKUP_THREADS: Final = 32


@dataclass(frozen=True)
class FetchPolicy:
    """What may be fetched, and how much of it."""

    mode: Mode = "public"
    allow: tuple[AllowEntry, ...] = ()
    ports: Collection[int] = addresses.DEFAULT_PORTS
    max_bytes: int = 20 * 2**20
    connect_timeout_s: float = 3.0
    total_timeout_s: float = 10.0
    max_redirects: int = 3
    max_connections: int = 64


class Fetcher:
    """One pool of connections; use as an async context manager."""

    def __init__(
        self,
        policy: FetchPolicy,
        *,
        on_denied: Callable[[Reason], None] = lambda _: None,
        resolver: AbstractResolver | None = None,
        is_public: Callable[[Address], bool] = addresses.is_public,
    ) -> None:
        self._policy = policy
        self._gate = Gate(policy.mode, policy.allow, policy.ports, is_public)
        self._on_denied = on_denied
        self._resolver = resolver or _SystemResolver(policy.connect_timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=self._resolver,
                use_dns_cache=False,
                limit=self._policy.max_connections,
                socket_factory=self._open_socket,
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._policy.connect_timeout_s),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    async def fetch(self, url: str, *, timeout_s: float) -> bytes:
        """Download one image within `timeout_s` and the policy's own total.

        Raises:
            ImageUrlForbidden: scheme, host, port or address, of the URL or of a redirect.
            ImageUnreachable: no answer, no 200, too many redirects, or slower than the policy allows.
            ImageTooLarge: more bytes than the policy allows.
            DeadlineExceeded: `timeout_s` passed.
        """
        policy_s = self._policy.total_timeout_s
        try:
            async with asyncio.timeout(min(timeout_s, policy_s)) as scope:
                return await self._follow(url)
        except Refused as refused:
            self._on_denied(refused.reason)
            raise ImageUrlForbidden(refused.detail) from refused
        except TimeoutError as error:
            if not scope.expired():  # aiohttp's own limit for one connection
                raise _unreachable("the image's host did not answer in time", error) from error
            if timeout_s <= policy_s:
                raise DeadlineExceeded("the deadline passed while the image was fetched") from error
            raise ImageUnreachable(f"fetching the image took longer than {policy_s:g} s") from error
        except aiohttp.ClientConnectorDNSError as error:
            raise _unreachable("the name of the image's host cannot be resolved", error) from error
        except aiohttp.ClientPayloadError as error:
            raise _unreachable("the image's host ended its answer early", error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable("the image's host cannot be reached", error) from error

    async def fetch_all(self, urls: Sequence[str], *, timeout_s: float) -> list[bytes | ServiceError]:
        """Download the images of one batch at once, the same URL once; answers in the order of `urls`."""
        async with asyncio.TaskGroup() as group:
            tasks = {url: group.create_task(self._attempt(url, timeout_s)) for url in dict.fromkeys(urls)}
        return [tasks[url].result() for url in urls]

    async def _attempt(self, url: str, timeout_s: float) -> bytes | ServiceError:
        try:
            return await self.fetch(url, timeout_s=timeout_s)
        except ServiceError as error:
            return error

    async def _follow(self, url: str) -> bytes:
        target = addresses.parse_url(url)
        userinfo = target.userinfo
        for _ in range(self._policy.max_redirects + 1):
            self._gate.admit(target)
            answer = await self._request(target, userinfo)
            if isinstance(answer, bytes):
                return answer
            following = addresses.parse_url(answer, base=target)
            if following.origin != target.origin:
                userinfo = None
            target = following
        raise ImageUnreachable(f"the URL redirects more than {self._policy.max_redirects} times")

    async def _request(self, target: Target, userinfo: str | None) -> bytes | str:
        """Return the image, or the Location of another one."""
        if self._session is None:
            raise RuntimeError("the Fetcher has not been entered")
        headers = _HEADERS if userinfo is None else {**_HEADERS, "Authorization": _basic(userinfo)}
        dial = _Dial(target.host)
        token = _DIAL.set(dial)
        try:
            async with self._session.get(
                URL(target.url, encoded=True), headers=headers, allow_redirects=False
            ) as response:
                if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                    return location
                if response.status != 200:
                    raise ImageUnreachable(f"the image's host answered {response.status}")
                return await self._read(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if dial.refused is not None:
                raise dial.refused from error
            raise
        finally:
            _DIAL.reset(token)

    def _open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Make the socket for one address that aiohttp is about to dial, or refuse it."""
        family, kind, protocol, _, sockaddr = info
        dial = _DIAL.get()
        try:
            self._gate.admit_address(dial.host, sockaddr[1], _dialled(sockaddr))
        except Refused as refused:
            dial.refused = refused
            raise PermissionError(errno.EACCES, "the address is not allowed") from refused
        return socket.socket(family, kind, protocol)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        max_bytes = self._policy.max_bytes
        if (response.content_length or 0) > max_bytes:  # a hint that spares the transfer, no more
            raise too_large(max_bytes)
        inflater = _inflater(response.headers.get("Content-Encoding", ""))
        body = bytearray()
        received = 0
        async for chunk in response.content.iter_any():
            received += len(chunk)
            try:
                body += inflater.decompress(chunk, max_bytes + 1 - len(body)) if inflater else chunk
            except zlib.error as error:
                raise _unreachable("the image's content encoding is damaged", error) from error
            if max(received, len(body)) > max_bytes:
                raise too_large(max_bytes)
        if inflater and not inflater.eof:
            raise ImageUnreachable("the image's host ended its answer early")
        return bytes(body)


@dataclass
class _Dial:
    """Who is dialled for, told to `_open_socket`, and what it refused, told back."""

    host: str
    refused: Refused | None = None


# aiohttp dials in the task of the request, or in tasks that copy its context.
_DIAL: ContextVar[_Dial] = ContextVar("_DIAL")


class _SystemResolver(AbstractResolver):
    """getaddrinfo in threads of its own: a name server that stalls holds up no other work of the loop."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="lookup")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        def look_up() -> list[tuple[Any, ...]]:
            return socket.getaddrinfo(
                host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )

        async with asyncio.timeout(self._timeout_s):
            infos = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [
            ResolveResult(
                hostname=host,
                host=sockaddr[0],
                port=port,
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, protocol, _, sockaddr in infos
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _dialled(sockaddr: tuple[Any, ...]) -> Address:
    try:
        return ip_address(sockaddr[0])
    except ValueError:
        raise Refused(Reason.ADDRESS, "the URL leads to an address that is not allowed") from None


def _inflater(encoding: str) -> zlib._Decompress | None:
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        case "deflate":
            return zlib.decompressobj()
    raise ImageUnreachable("the image's host answered in a content encoding that was not asked for")


def _basic(userinfo: str) -> str:
    name, _, password = userinfo.partition(":")
    return "Basic " + base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode("ascii")


def _unreachable(detail: str, error: Exception) -> ImageUnreachable:
    return ImageUnreachable(detail, internal=f"{type(error).__name__}: {error}")
