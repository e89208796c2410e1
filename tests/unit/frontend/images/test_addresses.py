"""What may be fetched: addresses, spellings of hosts, and the allowlist."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.images.addresses import (
    DEFAULT_PORTS,
    AllowEntry,
    Gate,
    Mode,
    Reason,
    Refused,
    Target,
    is_public,
    parse_allow,
    parse_url,
)
from tests.unit.frontend.images.spellings import HOSTS, INVALID

_PUBLIC = (
    "1.1.1.1 8.8.8.8 9.9.9.9 11.0.0.1 93.184.216.34 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 "
    "168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 191.255.255.255 "
    "192.0.1.1 192.88.98.255 192.88.100.1 192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1 "
    "223.255.255.254 2000::1 2001:200::1 2001:4860:4860::8888 2003::1 2400:cb00::1 2606:4700:4700::1111 "
    "2620:fe::fe 2a00:1450:4001:81b::200e 3ffe:ffff::1 "
)

_DENIED = (
    # IPv4: edges of every range
    "0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.0.0.1 10.255.255.255 100.64.0.0 100.64.0.1 100.100.100.200 "
    "100.127.255.255 127.0.0.0 127.0.0.1 127.1.2.3 127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.253 "
    "169.254.169.254 169.254.170.2 169.254.255.255 172.16.0.0 172.16.0.1 172.31.255.255 192.0.0.0 192.0.0.8 "
    "192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.192 192.0.2.1 192.88.99.0 192.88.99.1 192.88.99.255 192.168.0.0 "
    "192.168.1.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.0 224.0.0.1 "
    "232.1.1.1 233.252.0.1 239.255.255.250 239.255.255.255 240.0.0.1 254.1.1.1 255.255.255.255 "
    # IPv6 of its own
    ":: ::1 ::2 100::1 100:0:0:1::1 5f00::1 4000::1 1fff::1 fc00::1 fd00::1 fd00:ec2::254 fd12:3456:789a::1 "
    "fdff:ffff::1 fe80::1 fe80::a9fe:a9fe febf::1 fec0::1 feff::1 ff00::1 ff01::1 ff02::1 ff02::fb ff05::2 "
    "ff0e::1 ff0e::8:8:8:8 2001:db8::1 2001:db8:ffff::1 3fff::1 3fff:fff::1 2001:2::1 2001:10::1 2001:20::1 "
    "2001:1::1 2001:3::1 2001:4:112::1 2001:1ff::1 "
    # IPv6 that carries IPv4: mapped, compatible, translated, NAT64, local NAT64, 6to4, Teredo,
    # ISATAP
    "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 "
    "::127.0.0.1 ::10.0.0.1 ::8.8.8.8 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 "
    "64:ff9b::8.8.8.8 64:ff9b:1::10.0.0.1 64:ff9b:1:ffff::8.8.8.8 2002:7f00:1::1 2002:a00:1::1 "
    "2002:a9fe:a9fe::1 2002:808:808::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 "
    "2001:0:7f00:1::8080 2a00::5efe:10.0.0.1 2a00::200:5efe:10.0.0.1 2a00::5efe:8.8.8.8 "
    "2a00:1450:4001:81b:0:5efe:7f00:1 2606:4700::200:5efe:a9fe:a9fe "
)


@pytest.mark.parametrize("text", _PUBLIC.split())
def test_public(text: str) -> None:
    """Globally routable unicast is public, up to the very edge of the denied ranges."""
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", _DENIED.split())
def test_denied(text: str) -> None:
    """Nothing private, special, multicast, translated or tunnelled is public."""
    assert not is_public(ip_address(text))


def test_zone_is_denied() -> None:
    """An address with a zone is never public, whatever the address."""
    assert not is_public(IPv6Address("2606:4700:4700::1111%eth0"))


@given(st.ip_addresses(v=4))
def test_embedded_ipv4_is_never_public(inner: IPv4Address) -> None:
    """An IPv6 address that carries an IPv4 address is never public, not even with a public one."""
    number = int(inner)
    forms = {
        "mapped": 0xFFFF << 32 | number,
        "compatible": number,
        "translated": 0xFFFF << 48 | number,
        "nat64": 0x64FF9B << 96 | number,
        "local nat64": 0x64FF9B0001 << 80 | number,
        "6to4": 0x2002 << 112 | number << 80 | 1,
        "teredo server": 0x20010000 << 96 | number << 64 | 0x8000 << 48,
        "teredo client": 0x20010000 << 96 | (number ^ 0xFFFFFFFF),
        "isatap": 0x2A00 << 112 | 0x5EFE << 32 | number,
        "isatap, universal bit": 0x2A00 << 112 | 0x0200_5EFE << 32 | number,
    }
    assert {name for name, value in forms.items() if is_public(IPv6Address(value))} == set()


@given(st.ip_addresses(v=4), st.integers(0, 2**64 - 1), st.integers(0, 1))
def test_isatap_under_any_prefix(inner: IPv4Address, prefix: int, universal: int) -> None:
    """An ISATAP mark in the interface identifier is denied under every prefix."""
    assert not is_public(IPv6Address(prefix << 64 | universal << 57 | 0x5EFE << 32 | int(inner)))


@given(st.ip_addresses())
def test_public_is_within_the_standard_library(address: IPv4Address | IPv6Address) -> None:
    """An address that `ipaddress` calls private, reserved or not global is never public.

    The same holds for the link-local, loopback and multicast ranges.
    """
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved
        assert not address.is_private


@pytest.mark.parametrize(("spelling", "host"), HOSTS.items())
def test_host_spellings(spelling: str, host: str) -> None:
    """Every spelling of a host is read as the one that is dialled.

    This holds for the host alone, and with a user name and a port.
    """
    read = parse_url(f"http://{spelling}/")
    with_all = parse_url(f"http://user:secret@{spelling}:8080/")
    expected = str(ip_address(host)) if ":" in host else host
    assert (read.host, read.port) == (expected, 80)
    assert (with_all.host, with_all.port) == (expected, 8080)


@pytest.mark.parametrize(("url", "reason"), INVALID.items(), ids=[repr(url)[:40] for url in INVALID])
def test_invalid_urls(url: str, reason: Reason) -> None:
    """What is no http(s) URL with one readable host is refused.

    The refusal repeats nothing of the text.
    """
    with pytest.raises(Refused) as refused:
        parse_url(url)
    assert refused.value.reason == reason
    assert "example" not in refused.value.detail


@given(st.text(max_size=80))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    """Any text is refused, or becomes a target whose URL reads back as the same target."""
    for candidate in (text, f"http://{text}", f"http://host/{text}"):
        try:
            target = parse_url(candidate)
        except Refused:
            continue
        again = parse_url(target.url)
        assert again == Target(target.scheme, target.host, target.port, target.path)


@given(st.ip_addresses(v=4), st.data())
def test_ipv4_in_every_base(address: IPv4Address, data: st.DataObject) -> None:
    """An address reads the same in decimal, octal and hexadecimal, in one to four parts."""
    split = data.draw(st.integers(0, 3))
    octets = address.packed
    numbers = [*octets[:split], int.from_bytes(octets[split:], "big")]
    bases = st.sampled_from(["{}", "0x{:x}", "0x{:08X}", "0{:o}", "000{:o}"])
    host = ".".join(data.draw(bases).format(number) for number in numbers)
    assert parse_url(f"http://{host}/").address == address


@pytest.mark.parametrize(
    ("url", "requested"),
    {
        "http://h/a%2Fb%20c?sig=%2Bx%3D&q=a+b#part": "http://h/a%2Fb%20c?sig=%2Bx%3D&q=a+b",
        " http://h/ä b?ö=é ": "http://h/%C3%A4%20b?%C3%B6=%C3%A9",
        "HTTP://H:80": "http://h/",
        "https://u:p@h:443?x": "https://h/?x",
        "http://[::1]:8080/x": "http://[::1]:8080/x",
        "http://h:08080/": "http://h:8080/",
    }.items(),
)
def test_the_path_is_kept(url: str, requested: str) -> None:
    """Escapes and their order stay as they were signed.

    Only what HTTP cannot carry is encoded.
    """
    assert parse_url(url).url == requested


def test_redirects_are_relative_to_the_url() -> None:
    """A Location is read like a URL, relative to the URL that sent it."""
    base = parse_url("https://host:8443/a/b?c")
    assert parse_url("d", base=base).url == "https://host:8443/a/d"
    assert parse_url("//other/e", base=base).url == "https://other/e"
    assert parse_url("http://0x7f.1:8000/", base=base).url == "http://127.0.0.1:8000/"
    with pytest.raises(Refused, match="only http and https"):
        parse_url("file:///etc/passwd", base=base)


def test_default_ports() -> None:
    """Ports 80, 443 and 8000 to 8999 are allowed, and no other."""
    assert frozenset({80, 443}) | frozenset(range(8000, 9000)) == DEFAULT_PORTS


def test_allowlist_entries() -> None:
    """Names, ports, addresses, CIDRs and IPv6 in brackets are told apart.

    Names are spelled as they are dialled.
    """
    entries = parse_allow(
        "Minio.Internal, gate:9000 10.0.0.0/8\n192.168.1.5,192.168.1.5:9000 [fd00::1]:81 fd00::/8 ::1"
    )
    assert [(entry.name, entry.network and str(entry.network), entry.port) for entry in entries] == [
        ("minio.internal", None, None),
        ("gate", None, 9000),
        (None, "10.0.0.0/8", None),
        (None, "192.168.1.5/32", None),
        (None, "192.168.1.5/32", 9000),
        (None, "fd00::1/128", 81),
        (None, "fd00::/8", None),
        (None, "::1/128", None),
    ]
    assert parse_allow(" , ") == ()
    assert parse_allow("0x7f.1") == parse_allow("127.0.0.1")


@pytest.mark.parametrize(
    "entry", ["10.0.0.1/8", "a b/c", "host:0", "host:99999", "*.internal", "http://h", "h:x", "[::1"]
)
def test_bad_allowlist_entries(entry: str) -> None:
    """An entry that could be misread stops the start."""
    with pytest.raises(ValueError, match="allowlist"):
        parse_allow(entry)


CASES: list[tuple[Mode, str, str, str, Reason | None]] = [
    # mode, allowlist, URL, the address of the host, the reason of the refusal
    ("off", "gate", "http://gate/", "10.0.0.1", Reason.OFF),
    ("public", "", "http://example.com/", "93.184.216.34", None),
    ("public", "", "http://example.com:8443/", "93.184.216.34", None),
    ("public", "", "http://example.com:22/", "93.184.216.34", Reason.PORT),
    ("public", "", "http://example.com:0/", "93.184.216.34", Reason.PORT),
    ("public", "", "http://gate/", "10.0.0.1", Reason.ADDRESS),
    ("public", "", "http://10.0.0.1/", "10.0.0.1", Reason.ADDRESS),
    ("public", "gate", "http://gate/", "10.0.0.1", None),
    ("public", "gate", "http://GATE./", "10.0.0.1", None),
    ("public", "gate", "http://gate/", "fd00::1", None),
    ("public", "gate", "http://gate/", "127.0.0.1", None),
    ("public", "gate", "http://gate/", "169.254.169.254", Reason.ADDRESS),
    ("public", "gate", "http://gate/", "100.100.100.200", Reason.ADDRESS),
    ("public", "gate", "http://gate/", "fd00:ec2::254", Reason.ADDRESS),
    ("public", "gate", "http://gate/", "168.63.129.16", Reason.ADDRESS),
    ("public", "gate", "http://gate/", "::ffff:169.254.169.254", Reason.ADDRESS),
    ("public", "gate", "http://gate/", "64:ff9b::a9fe:a9fe", Reason.ADDRESS),
    ("public", "gate", "http://gate/", "0.0.0.0", Reason.ADDRESS),
    ("public", "gate", "http://gate/", "224.0.0.1", Reason.ADDRESS),
    ("public", "gate", "http://other/", "10.0.0.1", Reason.ADDRESS),
    ("public", "gate", "http://sub.gate/", "10.0.0.1", Reason.ADDRESS),
    ("public", "gate", "http://gate:9000/", "10.0.0.1", Reason.PORT),
    ("public", "gate:9000", "http://gate:9000/", "10.0.0.1", None),
    ("public", "gate:9000", "http://gate:80/", "10.0.0.1", Reason.ADDRESS),
    ("public", "gate:9000", "http://example.com:9000/", "93.184.216.34", Reason.PORT),
    ("public", "10.0.0.0/8", "http://anything/", "10.2.3.4", None),
    ("public", "10.0.0.0/8", "http://10.2.3.4/", "10.2.3.4", None),
    ("public", "10.0.0.0/8", "http://10.2.3.4:22/", "10.2.3.4", Reason.PORT),
    ("public", "10.0.0.0/8", "http://[::ffff:10.2.3.4]/", "::ffff:10.2.3.4", Reason.ADDRESS),
    ("public", "10.0.0.5:22", "http://10.0.0.5:22/", "10.0.0.5", None),
    ("public", "0.0.0.0/0", "http://169.254.169.254/", "169.254.169.254", Reason.ADDRESS),
    ("public", "fd00::/8", "http://[fd00:ec2::254]/", "fd00:ec2::254", Reason.ADDRESS),
    ("public", "169.254.169.254", "http://169.254.169.254/", "169.254.169.254", None),
    ("allowlist", "gate", "http://gate/", "10.0.0.1", None),
    ("allowlist", "gate", "http://example.com/", "93.184.216.34", Reason.UNLISTED),
    ("allowlist", "10.0.0.0/8", "http://example.com/", "93.184.216.34", Reason.UNLISTED),
    ("allowlist", "93.184.216.0/24", "http://example.com/", "93.184.216.34", None),
    ("allowlist", "", "http://93.184.216.34/", "93.184.216.34", Reason.UNLISTED),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "allow", "url", "address", "reason"), CASES)
def test_gate(mode: Mode, allow: str, url: str, address: str, reason: Reason | None) -> None:
    """Mode, allowlist, port and address together decide as the table says."""
    refused = refusal(Gate(mode, parse_allow(allow)), parse_url(url), address)
    assert (refused and refused.reason) == reason
    assert refused is None or address not in refused.detail


def refusal(gate: Gate, target: Target, address: str) -> Refused | None:
    try:
        gate.admit(target)
        gate.admit_address(target.host, target.port, ip_address(address))
    except Refused as refused:
        return refused
    return None


def test_unlisted_names_are_not_looked_up() -> None:
    """With only names in the allowlist, any other name is refused before it is looked up.

    A lookup alone could carry information out.
    """
    gate = Gate("allowlist", (AllowEntry("gate", None, None),))
    with pytest.raises(Refused) as refused:
        gate.admit(parse_url("http://stolen-secret.attacker.example/"))
    assert refused.value.reason == Reason.UNLISTED
