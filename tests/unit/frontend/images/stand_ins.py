"""Local servers that stand in for public and private hosts, and the names that lead to them."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver, ResolveResult

from frontend.images import addresses
from frontend.images.fetch import Fetcher, FetchPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from ipaddress import IPv4Address, IPv6Address

    from frontend.images.addresses import Reason

    Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]

IMAGE = b"\x89PNG, as far as a download can tell"
PUBLIC = ("127.0.0.2", "127.0.0.3")  # the stand-ins; every other loopback address is private
PRIVATE = ("127.0.0.1", "127.0.0.4", "::1")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


HAS_IPV6 = _has_ipv6()  # Docker's default network has none


def is_public(address: IPv4Address | IPv6Address) -> bool:
    return str(address) in PUBLIC or (not address.is_loopback and addresses.is_public(address))


def http(body: bytes = IMAGE, *headers: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return http(b"", f"Location: {location}", status=status)


@dataclass
class Net:
    """Servers on one port of every stand-in address, and the names that lead to them."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)  # by path, IMAGE where none
    names: dict[str, list[list[str]]] = field(default_factory=dict)  # successive lookups; the last repeats
    lookups: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)  # the address that each one reached
    requests: list[tuple[str, str]] = field(default_factory=list)  # address, request head

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = writer.get_extra_info("sockname")[0]
        self.connections.append(here)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.requests.append((here, head))
                answer = self.answers.get(head.split(" ")[1], http())
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(writer)
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @property
    def heads(self) -> list[str]:
        return [head for _, head in self.requests]


class Names(AbstractResolver):
    """A resolver that answers from the net's table."""

    def __init__(self, net: Net) -> None:
        self._net = net

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        self._net.lookups.append(host)
        answers = self._net.names.get(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=0, proto=0, flags=0)
            for address in found
        ]

    async def close(self) -> None:
        pass


async def _listening(net: Net) -> list[asyncio.Server]:
    """Listen on one port of every address; try another port if one address has it in use."""
    addresses = [address for address in (*PUBLIC, *PRIVATE) if HAS_IPV6 or ":" not in address]
    for _ in range(20):
        port, servers = 0, []
        try:
            for address in addresses:
                servers.append(await asyncio.start_server(net.serve, address, port))
                port = servers[0].sockets[0].getsockname()[1]
        except OSError as error:
            for server in servers:
                server.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return servers
    raise OSError(errno.EADDRINUSE, "no port was free on all of the stand-ins' addresses")


@asynccontextmanager
async def standing() -> AsyncIterator[Net]:
    """Start the servers."""
    net = Net()
    servers = await _listening(net)
    net.port = servers[0].sockets[0].getsockname()[1]
    net.names = {
        "public.test": [["127.0.0.2"]],
        "other.test": [["127.0.0.3"]],
        "private.test": [["127.0.0.1"]],
    }
    yield net
    for server in servers:
        server.close()


@asynccontextmanager
async def fetching(
    net: Net, *, denied: list[Reason] | None = None, **policy: object
) -> AsyncIterator[Fetcher]:
    settings = {"ports": (net.port,), "max_bytes": 10_000, **policy}
    async with Fetcher(
        FetchPolicy(**settings),  # type: ignore[arg-type]
        on_denied=denied.append if denied is not None else lambda _: None,
        resolver=Names(net),
        is_public=is_public,
    ) as fetcher:
        yield fetcher
