"""Where a guarded download may go.

The hosts are local servers that stand in for public and private ones.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from frontend.errors import DeadlineExceeded
from frontend.images.addresses import Reason, parse_allow
from frontend.images.errors import ImageNotReached, ImageUnreachable, ImageUrlForbidden, TooManyFetched
from frontend.images.fetch import Fetcher, FetchPolicy
from tests.unit.frontend.images.spellings import DENIED_ADDRESSES, FORBIDDEN, SERVED
from tests.unit.frontend.images.stand_ins import HAS_IPV6, IMAGE, Net, fetching, http, redirect, standing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with standing() as net:
        yield net


@pytest.mark.parametrize(("url", "address"), SERVED.items())
async def test_served(net: Net, url: str, address: str) -> None:
    """A spelling of a public address is fetched from that address and from nowhere else."""
    async with fetching(net) as fetcher:
        assert await fetcher.fetch(url.replace("§", str(net.port)), timeout_s=5) == IMAGE
    assert net.connections == [address]


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_forbidden(net: Net, url: str) -> None:
    """A spelling that leads to anything but a public host is never dialled.

    That is a private address, another port or scheme, or no certain host.
    """
    denied: list[Reason] = []
    async with fetching(net, denied=denied) as fetcher:
        with pytest.raises(ImageUrlForbidden) as error:
            await fetcher.fetch(url.replace("§", str(net.port)), timeout_s=5)
    assert net.connections == []
    assert len(denied) == 1
    assert not any(part in error.value.detail for part in ("127", "169", "::", "test"))


@pytest.mark.parametrize("address", DENIED_ADDRESSES)
async def test_forbidden_through_a_name(net: Net, address: str) -> None:
    """A name that resolves to a denied address is refused when the socket is made.

    The answer does not tell the address.
    """
    denied: list[Reason] = []
    net.names["name.test"] = [[address]]
    async with fetching(net, denied=denied) as fetcher:
        with pytest.raises(ImageUrlForbidden) as error:
            await fetcher.fetch(f"http://name.test:{net.port}/", timeout_s=5)
    assert (net.lookups, net.connections, denied) == (["name.test"], [], [Reason.ADDRESS])
    assert address not in error.value.detail


def test_the_table_is_large() -> None:
    """At least 250 addresses and spellings are tried."""
    assert len({*SERVED, *FORBIDDEN}) + len(set(DENIED_ADDRESSES)) >= 250


# --- Rebinding and names with several addresses ---------------------------------------------------


async def test_the_address_checked_is_the_address_dialled(net: Net) -> None:
    """A name is looked up once for each connection.

    The address cannot change between the check and the dial.
    """
    net.names["rebind.test"] = [["127.0.0.2"], ["127.0.0.1"]]
    async with fetching(net) as fetcher:
        assert await fetcher.fetch(f"http://rebind.test:{net.port}/", timeout_s=5) == IMAGE
    assert (net.lookups, net.connections) == (["rebind.test"], ["127.0.0.2"])


async def test_a_name_that_rebinds_is_forbidden_at_the_next_connection(net: Net) -> None:
    """If a name has become private by the next connection, that connection is refused."""
    net.names["rebind.test"] = [["127.0.0.2"], ["127.0.0.1"]]
    net.answers["/"] = http(IMAGE, "Connection: close")
    async with fetching(net) as fetcher:
        assert await fetcher.fetch(f"http://rebind.test:{net.port}/", timeout_s=5) == IMAGE
        with pytest.raises(ImageUrlForbidden):
            await fetcher.fetch(f"http://rebind.test:{net.port}/", timeout_s=5)
    assert net.connections == ["127.0.0.2"]


async def test_a_redirect_to_itself_that_rebinds(net: Net) -> None:
    """Each redirect is checked like a first request, even if the host was fine a moment ago."""
    net.names["rebind.test"] = [["127.0.0.2"], ["127.0.0.1"]]
    net.answers["/"] = http(b"", "Location: /next", "Connection: close", status="302 Found")
    async with fetching(net) as fetcher:
        with pytest.raises(ImageUrlForbidden):
            await fetcher.fetch(f"http://rebind.test:{net.port}/", timeout_s=5)
    assert net.connections == ["127.0.0.2"]


@pytest.mark.parametrize(
    "found", [["127.0.0.1", "127.0.0.2"], ["::1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]]
)
async def test_of_several_addresses_only_public_ones_are_dialled(net: Net, found: list[str]) -> None:
    """Of a name's private and public addresses, only a public one is dialled."""
    net.names["mixed.test"] = [found]
    async with fetching(net) as fetcher:
        assert await fetcher.fetch(f"http://mixed.test:{net.port}/", timeout_s=5) == IMAGE
    assert net.connections == ["127.0.0.2"]


async def test_all_addresses_private(net: Net) -> None:
    """If every address of a name is private, none is dialled, over either family."""
    net.names["mixed.test"] = [["127.0.0.1", "::1", "127.0.0.4"]]
    async with fetching(net) as fetcher:
        with pytest.raises(ImageUrlForbidden):
            await fetcher.fetch(f"http://mixed.test:{net.port}/", timeout_s=5)
    assert net.connections == []


# --- Redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
async def test_redirects_are_followed(net: Net, status: str) -> None:
    """Three redirects to public hosts, relative or absolute, lead to the image."""
    net.answers["/a"] = redirect("b", status)
    net.answers["/b"] = redirect(f"//other.test:{net.port}/c", status)
    net.answers["/c"] = redirect(f"http://public.test:{net.port}/image", status)
    async with fetching(net) as fetcher:
        assert await fetcher.fetch(f"http://public.test:{net.port}/a", timeout_s=5) == IMAGE
    assert [here for here, _ in net.requests] == ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.2"]


async def test_too_many_redirects(net: Net) -> None:
    """The fourth redirect is not followed."""
    for hop in range(9):
        net.answers[f"/{hop}"] = redirect(f"/{hop + 1}")
    async with fetching(net) as fetcher:
        with pytest.raises(ImageUnreachable, match="more than 3 times"):
            await fetcher.fetch(f"http://public.test:{net.port}/0", timeout_s=5)
    assert len(net.requests) == 4


@pytest.mark.parametrize(
    "location",
    [
        "http://private.test:§/", "http://127.0.0.1:§/", "http://0x7f.1:§/", "//127.0.0.1:§/", "http://[::1]:§/",
        "http://[::ffff:127.0.0.1]:§/", "http://169.254.169.254/latest/meta-data/", "http://public.test:22/",
        "file:///etc/passwd", "ftp://public.test:§/", "gopher://127.0.0.1:§/_", "http:\\\\127.0.0.1:§",
        "http://public.test:§\\@127.0.0.1/", "http://127.0.0.1\t:§/", "data:image/png;base64,AAAA",
        "http://\xe9\xe8/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("hops", [0, 2])
async def test_redirects_to_forbidden_places(net: Net, location: str, hops: int) -> None:
    """Every redirect is checked like a first URL: address, port, scheme and spelling."""
    for hop in range(hops):
        net.answers[f"/{hop}"] = redirect(f"/{hop + 1}")
    net.answers[f"/{hops}"] = redirect(location.replace("§", str(net.port)))
    async with fetching(net) as fetcher:
        with pytest.raises(ImageUrlForbidden):
            await fetcher.fetch(f"http://public.test:{net.port}/0", timeout_s=5)
    assert set(net.connections) == {"127.0.0.2"}


async def test_credentials_stay_with_their_origin(net: Net) -> None:
    """User name and password are sent to their own origin only.

    They are not sent after a redirect to another origin, nor after a redirect back.
    """
    net.answers["/a"] = redirect("/b")
    net.answers["/b"] = redirect(f"http://evil:evil@other.test:{net.port}/c")
    net.answers["/c"] = redirect(f"http://public.test:{net.port}/d")
    async with fetching(net) as fetcher:
        assert await fetcher.fetch(f"http://us%40er:se:cret@public.test:{net.port}/a", timeout_s=5) == IMAGE
    assert ["Authorization: Basic dXNAZXI6c2U6Y3JldA==" in head for head in net.heads] == [
        True,
        True,
        False,
        False,
    ]
    assert not any("evil" in head for head in net.heads)


# --- What is sent ---------------------------------------------------------------------------------


async def test_request_headers(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request names the service, asks for images, and sends no cookies.

    It ignores the proxy of the environment.
    """
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{net.port}")
    monkeypatch.setenv("NETRC", "/dev/null")
    net.answers["/"] = http(IMAGE, "Set-Cookie: a=b; Path=/")
    async with fetching(net) as fetcher:
        await fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=5)
        await fetcher.fetch(f"http://public.test:{net.port}/x%2Fy?z=%2B", timeout_s=5)
    first, second = net.heads
    assert first.startswith(f"GET / HTTP/1.1\r\nHost: public.test:{net.port}\r\n")
    assert second.startswith("GET /x%2Fy?z=%2B HTTP/1.1\r\n")
    assert "User-Agent: imajin-aesthetic\r\nAccept: image/*\r\nAccept-Encoding: identity\r\n" in first
    assert not any(name in second for name in ("Cookie", "Authorization", "Referer"))
    assert net.connections == ["127.0.0.2"], "one connection served both"


async def test_allowlisted_private_hosts(net: Net) -> None:
    """Private hosts in the allowlist are reached by name, by name and port, and by network."""
    for allow in ("private.test", f"private.test:{net.port}", "127.0.0.0/30", "127.0.0.1"):
        async with fetching(net, allow=parse_allow(allow), mode="allowlist") as fetcher:
            assert await fetcher.fetch(f"http://private.test:{net.port}/", timeout_s=5) == IMAGE
            with pytest.raises(ImageUrlForbidden):
                await fetcher.fetch(f"http://127.0.0.4:{net.port}/", timeout_s=5)
    assert set(net.connections) == {"127.0.0.1"}


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
async def test_allowlisted_ipv6(net: Net) -> None:
    """An allowed IPv6 address is dialled over IPv6."""
    async with fetching(net, allow=parse_allow("::1")) as fetcher:
        assert await fetcher.fetch(f"http://[0::1]:{net.port}/", timeout_s=5) == IMAGE
    assert net.connections == ["::1"]


async def test_off(net: Net) -> None:
    """With fetching turned off, nothing is looked up or dialled."""
    denied: list[Reason] = []
    async with fetching(net, mode="off", allow=parse_allow("public.test"), denied=denied) as fetcher:
        with pytest.raises(ImageUrlForbidden, match="turned off"):
            await fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=5)
    assert (net.lookups, net.connections, denied) == ([], [], [Reason.OFF])


# --- Many at once ---------------------------------------------------------------------------------


async def test_fetching_is_concurrent(net: Net) -> None:
    """URLs are fetched together.

    The host here answers only when all of them have been asked for.
    """
    arrived = asyncio.Barrier(10)

    async def together(writer: asyncio.StreamWriter) -> None:
        await arrived.wait()
        writer.write(http())
        await writer.drain()

    net.answers = dict.fromkeys((f"/{index}" for index in range(10)), together)
    async with fetching(net) as fetcher:
        fetches = (fetcher.fetch(f"http://public.test:{net.port}/{n}", timeout_s=20) for n in range(10))
        assert await asyncio.gather(*fetches) == [IMAGE] * 10


async def test_a_slow_host_holds_its_own_places_only(net: Net) -> None:
    """However many URLs of a slow host are waited for, those of another host are fetched.

    A host is asked for few images at once.
    """
    released = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.write(http())
        await writer.drain()

    net.answers = {"/slow": slow}
    async with fetching(net, max_fetches=3, max_fetches_of_host=2) as fetcher:
        held = [
            asyncio.create_task(fetcher.fetch(f"http://other.test:{net.port}/slow", timeout_s=20))
            for _ in range(20)
        ]
        for _ in range(5):
            assert await fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=20) == IMAGE
        assert sum(head.startswith("GET /slow") for head in net.heads) == 2
        released.set()
        assert await asyncio.gather(*held) == [IMAGE] * 20


async def test_waiting_for_a_place_is_not_the_hosts_fault(net: Net) -> None:
    """The policy's time begins with the fetch.

    The wait before it is bounded by the request's own deadline.
    """

    async def silent(writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    net.answers = {"/silent": silent}
    async with fetching(net, max_fetches=1, max_fetches_of_host=1, total_timeout_s=0.5) as fetcher:
        url = f"http://public.test:{net.port}/silent"
        answers = await asyncio.gather(
            *(fetcher.fetch(url, timeout_s=timeout_s) for timeout_s in (20, 20, 0.1)), return_exceptions=True
        )
    assert [type(answer) for answer in answers] == [ImageNotReached, ImageNotReached, DeadlineExceeded]


async def test_those_who_wait_are_bounded(net: Net) -> None:
    """If too many wait for a place, the last of the host with most of them are told so."""
    released = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.write(http())
        await writer.drain()

    net.answers = {"/slow": slow}
    async with fetching(net, max_fetches=2, max_fetches_of_host=1, max_waiting=3) as fetcher:
        url = f"http://other.test:{net.port}/slow"
        held = [asyncio.create_task(fetcher.fetch(url, timeout_s=20)) for _ in range(6)]
        assert await fetcher.fetch(f"http://public.test:{net.port}/", timeout_s=20) == IMAGE
        released.set()
        answers = await asyncio.gather(*held, return_exceptions=True)
    assert [type(answer) for answer in answers] == [bytearray] * 4 + [TooManyFetched] * 2


async def test_the_policy_of_a_context_stays_its_own(net: Net) -> None:
    """Of concurrent downloads each is decided by its own host.

    An allowed host does not open the way for another.
    """
    net.names["gate.test"] = [["127.0.0.1"]]
    hosts = ["gate.test", "private.test"] * 8
    async with fetching(net, allow=parse_allow("gate.test")) as fetcher:
        got = await asyncio.gather(
            *(fetcher.fetch(f"http://{host}:{net.port}/{n}", timeout_s=5) for n, host in enumerate(hosts)),
            return_exceptions=True,
        )
    assert [isinstance(answer, bytearray) for answer in got] == [True, False] * 8


async def test_the_system_resolver() -> None:
    """Without a resolver that was given, the system looks names up.

    Its answers are checked in the same way.
    """
    async with Fetcher(FetchPolicy()) as fetcher:
        with pytest.raises(ImageUrlForbidden):
            await fetcher.fetch("http://localhost:8080/", timeout_s=5)


def test_detail_of_every_reason() -> None:
    """Every reason is one plain word, fit to be a label of a metric."""
    assert all(reason.value.isalpha() for reason in Reason)
