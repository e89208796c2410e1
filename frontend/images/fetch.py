"""Guarded download: the bytes of an image from a URL that somebody else wrote.

The address is checked when the socket is made (`_open_socket`). It is exactly the address that is
dialled, whether it came from the resolver or from the URL. No second lookup could answer
differently.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
import time
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

from frontend.errors import DeadlineExceeded
from frontend.images import addresses
from frontend.images.addresses import Address, AllowEntry, Gate, Mode, Reason, Refused, Target
from frontend.images.errors import (
    ImageNotReached,
    ImageUnreachable,
    ImageUrlForbidden,
    TooManyFetched,
    too_large,
)
from frontend.images.turns import TooManyWait, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import TracebackType

    from _typeshed import WriteableBuffer

_HEADERS: Final = {
    "User-Agent": "imajin-aesthetic",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # image formats are compressed already
}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({408, 425, 429})
"""Statuses below 500 that say: not now."""
_LOOKUP_THREADS: Final = 32
_RETRY_AFTER_S: Final = 1.0

_MAX_READ_BYTES: Final = 2**14
_MAX_INFLATED_BYTES: Final = 2**18
_FREE_PARTS: Final = 256
_MIN_PART_BYTES: Final = 256
"""Parsing a chunk of one byte takes a microsecond. 256 KiB of such chunks, read at once, take 30
ms.
"""


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
    max_fetches: int = 64
    max_fetches_of_host: int = 16
    max_waiting: int = 128


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
        self._turns = Turns(
            policy.max_fetches, max_each=policy.max_fetches_of_host, max_waiting=policy.max_waiting
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=self._resolver,
                use_dns_cache=False,
                limit=self._policy.max_fetches,
                limit_per_host=self._policy.max_fetches_of_host,  # for those who are redirected to it
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

    async def fetch(
        self, url: str, *, timeout_s: float, take: Callable[[int], None] = lambda _: None
    ) -> bytearray:
        """Download one image within `timeout_s` and, once it has begun, the policy's own total.

        Some images are fetched at once, and some of each host; others wait, and hosts take turns.
        If too many wait, one must go, of the host for which most do.
        `take` is called with the bytes as they arrive, and may raise an error.

        Raises:
            ImageUrlForbidden: scheme, host, port or address, of the URL or of a redirect.
            ImageUnreachable: no answer, no 200, too many redirects, or slower than allowed.
            ImageTooLarge: more bytes than the policy allows.
            TooManyFetched: too many wait for this host.
            DeadlineExceeded: `timeout_s` passed.
        """
        try:
            target = addresses.parse_url(url)
            self._gate.admit(target)
            async with asyncio.timeout(timeout_s):
                await self._turns.take(target.host)
                begun = time.monotonic()
                try:
                    return await self._fetch(target, take)
                finally:
                    self._turns.give_back(target.host, time.monotonic() - begun)
        except Refused as refused:
            self._on_denied(refused.reason)
            raise ImageUrlForbidden(refused.detail) from refused
        except TooManyWait as error:
            raise TooManyFetched(
                "too many images wait to be fetched", retry_after_s=_RETRY_AFTER_S
            ) from error
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed while the image was fetched") from error

    async def _fetch(self, target: Target, take: Callable[[int], None]) -> bytearray:
        total_s = self._policy.total_timeout_s
        try:
            async with asyncio.timeout(total_s) as scope:
                return await self._follow(target, take)
        except TimeoutError as error:
            if scope.expired():
                raise ImageNotReached(f"fetching the image took longer than {total_s:g} s") from error
            raise _unreachable("the image's host did not answer in time", error) from error  # aiohttp's limit
        except aiohttp.ClientConnectorDNSError as error:
            raise _unreachable("the name of the image's host cannot be resolved", error) from error
        except aiohttp.ClientPayloadError as error:
            raise _unreachable("the image's host ended its answer early", error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable("the image's host cannot be reached", error) from error

    async def _follow(self, target: Target, take: Callable[[int], None]) -> bytearray:
        userinfo = target.userinfo
        for _ in range(self._policy.max_redirects + 1):
            answer = await self._request(target, userinfo, take)
            if isinstance(answer, bytearray):
                return answer
            following = addresses.parse_url(answer, base=target)
            self._gate.admit(following)
            if following.origin != target.origin:
                userinfo = None
            target = following
        raise ImageUnreachable(f"the URL redirects more than {self._policy.max_redirects} times")

    async def _request(
        self, target: Target, userinfo: str | None, take: Callable[[int], None]
    ) -> bytearray | str:
        """Return the image, or the Location of a redirect."""
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
                    passes = response.status in _PASSING or response.status >= 500
                    kind = ImageNotReached if passes else ImageUnreachable
                    raise kind(f"the image's host answered {response.status}")
                return await self._read(response, take)
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
        return _Sipping(family, kind, protocol)

    async def _read(self, response: aiohttp.ClientResponse, take: Callable[[int], None]) -> bytearray:
        announced = response.content_length or 0  # a hint that spares the transfer, no more
        if announced > self._policy.max_bytes:
            raise too_large(self._policy.max_bytes)
        body = bytearray()
        try:
            await self._read_into(body, response, take)
        except BaseException:
            body.clear()  # no longer counted; an error's traceback may keep it for long
            raise
        return body

    async def _read_into(
        self, body: bytearray, response: aiohttp.ClientResponse, take: Callable[[int], None]
    ) -> None:
        max_bytes = self._policy.max_bytes
        inflater = _inflater(response.headers.get("Content-Encoding", ""))
        received = parts = 0
        async for chunk, _ in response.content.iter_chunks():
            received += len(chunk)
            parts += 1
            if parts > _FREE_PARTS + received // _MIN_PART_BYTES:
                raise ImageUnreachable("the image's host sends it in crumbs")
            if received > max_bytes:
                raise too_large(max_bytes)
            for part in (chunk,) if inflater is None else _inflated(chunk, inflater):
                take(len(part))
                body += part
                if len(body) > max_bytes:
                    raise too_large(max_bytes)
                if inflater is not None:
                    await asyncio.sleep(0)
        if inflater and not inflater.eof:
            raise ImageNotReached("the image's host ended its answer early")


class _Sipping(socket.socket):
    """A socket that reads little at once, so that others have their turns between the parts."""

    def recv(self, count: int, flags: int = 0, /) -> bytes:
        return super().recv(min(count, _MAX_READ_BYTES), flags)

    def recv_into(self, buffer: WriteableBuffer, count: int = 0, flags: int = 0, /) -> int:
        """Read for TLS."""
        return super().recv_into(buffer, min(count or len(memoryview(buffer)), _MAX_READ_BYTES), flags)


@dataclass
class _Dial:
    """For which host a socket is made, and the refusal of it: the link to `_open_socket`."""

    host: str
    refused: Refused | None = None


# aiohttp dials in the task of the request, or in tasks with a copy of its context.
_DIAL: ContextVar[_Dial] = ContextVar("_DIAL")


class _SystemResolver(AbstractResolver):
    """Call getaddrinfo in threads of its own, so that a slow name server delays no other work."""

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


def _inflated(data: bytes, inflater: zlib._Decompress) -> Iterator[bytes]:
    """Decompress in parts that take a millisecond each."""
    while True:
        try:
            part = inflater.decompress(data, _MAX_INFLATED_BYTES)
        except zlib.error as error:
            words = "the image's content encoding is damaged"
            raise ImageUnreachable(words, internal=str(error)) from error
        yield part
        data = inflater.unconsumed_tail
        if not data and len(part) < _MAX_INFLATED_BYTES:
            return


def _basic(userinfo: str) -> str:
    name, _, password = userinfo.partition(":")
    return "Basic " + base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode("ascii")


def _unreachable(detail: str, error: Exception) -> ImageNotReached:
    return ImageNotReached(detail, internal=f"{type(error).__name__}: {error}")
