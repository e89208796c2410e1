"""Which URLs and which addresses may be fetched.

A URL is read once, here, into a `Target` with one canonical host. Exactly that host is dialled, so
an odd spelling cannot mean one thing to the check and another to the socket. `Gate` decides twice:
about the target before any lookup, and about the exact address when the socket is made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, Literal, NoReturn
from urllib.parse import quote, unquote, urljoin, urlsplit

import idna

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Mode = Literal["off", "allowlist", "public"]

DEFAULT_PORTS: Final = frozenset({80, 443, *range(8000, 9000)})

# Addresses that `is_global` of the standard library lets through.
_DENIED_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "192.0.0.0/24",  # IETF protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's host, on a public address
    )
)
# The other denied kinds are outside 2000::/3: mapped, compatible, NAT64 (64:ff9b::/96,
# 64:ff9b:1::/48), discard, SRv6, unique-local, link-local, site-local (fec0::/10), multicast.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_DENIED_V6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # IETF protocol assignments: Teredo (2001::/32), ORCHID, benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 carries an IPv4 address
        "3fff::/20",  # documentation
    )
)
_ISATAP_MARKS: Final = (0x00005EFE, 0x02005EFE)  # upper half of the interface identifier (RFC 5214)

# The allowlist opens these only by an entry that is exactly the address.
_METADATA: Final = frozenset(
    ip_address(text) for text in ("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200")
)
# An allowed host name may lead here, and to public addresses, but not to link-local, multicast or
# embedding addresses.
_PRIVATE: Final = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
)

_DEFAULT_PORT: Final = {"http": 80, "https": 443}
_MAX_URL_CHARS: Final = 8192
_UNREADABLE: Final = "its host or port cannot be read"
_AMBIGUOUS: Final = re.compile(r"[\x00-\x1f\x7f\\]")
_AUTHORITY: Final = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[0-9]{0,5}))?")
_NAME: Final = re.compile(r"(?!.{254})[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ENTRY_WITH_PORT: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>[0-9]{1,5})")
# Characters that a path or query keeps as they are: escapes in a signed URL must not change.
_KEPT: Final = "%/:;=@!$&'()*+,~?[]|"


class Reason(StrEnum):
    """Why a fetch was refused; also the label of the metric that counts refusals."""

    OFF = "off"
    URL = "url"
    SCHEME = "scheme"
    PORT = "port"
    ADDRESS = "address"
    UNLISTED = "unlisted"


class Refused(Exception):
    """A URL or an address is not allowed; `detail` may be told to whoever asked."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Target:
    """What a URL asks for, in one spelling."""

    scheme: str
    host: str  # a lower-case ASCII name, or an address without brackets
    port: int
    path: str  # with the query, percent-encoded
    userinfo: str | None = None

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def address(self) -> Address | None:
        """The address, if the host is one."""
        return _literal(self.host)

    @property
    def url(self) -> str:
        """The URL to request, without user name and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORT[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_url(text: str, *, base: Target | None = None) -> Target:
    """Read a URL, or a redirect's Location relative to `base`.

    The host is read as browsers read it (WHATWG URL): first percent-escapes and UTS 46, then IPv4
    in decimal, octal, hexadecimal and with fewer than four parts. Backslashes and control
    characters are refused, because readers disagree about their meaning.

    Raises:
        Refused: not an http or https URL with a readable host and port.
    """
    text = text.strip(" ")
    if _AMBIGUOUS.search(text) or len(text) > _MAX_URL_CHARS:
        _refuse_url("it is too long, or holds a backslash or a control character")
    try:
        parts = urlsplit(text if base is None else urljoin(base.url, text))
    except ValueError:
        _refuse_url(_UNREADABLE)
    if parts.scheme not in _DEFAULT_PORT:
        raise Refused(Reason.SCHEME, "only http and https URLs are fetched")
    userinfo, at, authority = parts.netloc.rpartition("@")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        _refuse_url(_UNREADABLE)
    host = _bracketed_host(match["six"]) if match["six"] is not None else canonical_host(match["name"])
    try:
        path = quote(parts.path or "/", safe=_KEPT) + (
            "?" + quote(parts.query, safe=_KEPT) if parts.query else ""
        )
    except UnicodeEncodeError:
        _refuse_url("it is not Unicode text")
    port = int(match["port"] or _DEFAULT_PORT[parts.scheme])
    return Target(parts.scheme, host, port, path, userinfo if at else None)


def canonical_host(name: str) -> str:
    """Return the one spelling of a host that is dialled, without brackets.

    Raises:
        Refused: neither a host name nor an IPv4 address.
    """
    try:
        name = unquote(name, errors="strict")
        if not name.isascii():
            name = idna.uts46_remap(name, std3_rules=False)
        if not name.isascii():
            name = idna.encode(name).decode("ascii")
    except (UnicodeError, idna.IDNAError):
        _refuse_url(_UNREADABLE)
    name = name.lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        _refuse_url(_UNREADABLE)
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return str(_ipv4(name))
    return name


@dataclass(frozen=True)
class AllowEntry:
    """One entry of the allowlist: a host name or a network, on one port or on the default ones."""

    name: str | None
    network: Network | None
    port: int | None


def parse_allow(text: str) -> tuple[AllowEntry, ...]:
    """Read an allowlist: host names, `host:port`, addresses and CIDRs, split by commas or blanks.

    Raises:
        ValueError: an entry is none of these.
    """
    return tuple(_allow_entry(entry) for entry in re.split(r"[,\s]+", text) if entry)


def is_public(address: Address) -> bool:
    """Tell whether an address is globally routable unicast and carries no other address inside."""
    if address.is_multicast or not address.is_global:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _DENIED_V4)
    if address.scope_id is not None or address not in _GLOBAL_UNICAST:
        return False
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP_MARKS:
        return False
    return not any(address in network for network in _DENIED_V6)


@dataclass(frozen=True)
class Gate:
    """The decision: mode, allowlist and ports, and which addresses count as public."""

    mode: Mode = "public"
    allow: tuple[AllowEntry, ...] = ()
    ports: Collection[int] = DEFAULT_PORTS
    is_public: Callable[[Address], bool] = is_public

    def admit(self, target: Target) -> None:
        """Refuse what can be refused before a name is looked up.

        Raises:
            Refused: fetching is off, or the port, the address or the unlisted name is not allowed.
        """
        if self.mode == "off":
            raise Refused(Reason.OFF, "fetching images by URL is turned off")
        if target.port not in self.ports and all(entry.port != target.port for entry in self.allow):
            _refuse_port()
        address = target.address
        if address is not None:
            self.admit_address(target.host, target.port, address)
        elif self.mode == "allowlist" and not any(
            entry.network is not None or entry.name == target.host for entry in self.allow
        ):
            _refuse_unlisted()

    def admit_address(self, host: str, port: int, address: Address) -> None:
        """Decide about the address that is about to be dialled for `host`.

        Raises:
            Refused: neither the allowlist nor the mode lets it through.
        """
        if any(self._covers(entry, host, port, address) for entry in self.allow):
            return
        if self.mode != "public":
            _refuse_unlisted()
        if not self.is_public(address):
            raise Refused(Reason.ADDRESS, "the URL leads to an address that is not allowed")
        if port not in self.ports:
            _refuse_port()

    def _covers(self, entry: AllowEntry, host: str, port: int, address: Address) -> bool:
        if port != entry.port if entry.port is not None else port not in self.ports:
            return False
        if entry.network is not None:
            exact = entry.network.num_addresses == 1
            return address in entry.network and (exact or address not in _METADATA)
        if host != entry.name or address in _METADATA:
            return False
        return self.is_public(address) or any(address in network for network in _PRIVATE)


def _allow_entry(text: str) -> AllowEntry:
    port: int | None = None
    host = text
    if match := _ENTRY_WITH_PORT.fullmatch(text):
        host, port = match["host"], int(match["port"])
        if not 0 < port < 65536:
            raise ValueError(f"{text!r} in the fetch allowlist: no such port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        return AllowEntry(None, ip_network(host), port)
    except ValueError:
        pass
    try:
        name = canonical_host(host)
    except Refused as error:
        raise ValueError(f"{text!r} in the fetch allowlist is no host name, host:port or CIDR") from error
    address = _literal(name)
    return AllowEntry(None, ip_network(address), port) if address else AllowEntry(name, None, port)


def _bracketed_host(text: str) -> str:
    address = _literal(text)
    if not isinstance(address, IPv6Address) or address.scope_id is not None:
        _refuse_url(_UNREADABLE)
    return str(address)


def _literal(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _ipv4(name: str) -> IPv4Address:
    """Read IPv4 as inet_aton and the WHATWG URL standard do.

    There are 1 to 4 parts, and the last one fills all bytes that are left.
    """
    parts = name.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        _refuse_url(_UNREADABLE)
    try:
        *high, low = (_number(part) for part in parts)
    except ValueError:
        _refuse_url(_UNREADABLE)
    if any(value > 255 for value in high) or low >= 256 ** (5 - len(parts)):
        _refuse_url(_UNREADABLE)
    return IPv4Address(sum(value << (24 - 8 * index) for index, value in enumerate(high)) + low)


def _number(text: str) -> int:
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8 if text.startswith("0") else 10)


def _refuse_url(why: str) -> NoReturn:
    raise Refused(Reason.URL, f"the URL is not valid: {why}")


def _refuse_port() -> NoReturn:
    raise Refused(Reason.PORT, "the URL's port is not allowed")


def _refuse_unlisted() -> NoReturn:
    raise Refused(Reason.UNLISTED, "the URL's host is not on the allowlist")
