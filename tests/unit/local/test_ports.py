"""Ports that are found free and stay free until they are used."""

from __future__ import annotations

import socket
from unittest.mock import patch

import pytest

from local import ports
from local.ports import free_ports


def test_free_ports_can_be_listened_on() -> None:
    """As many free ports as were asked for are found, all different.

    None is from the range that any outgoing connection may be given.
    """
    found = free_ports(20)
    assert len(set(found)) == 20
    assert max(found) < 32_768
    for port in found:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))
            server.listen()


def test_a_port_in_use_is_passed_over() -> None:
    """A port in use is passed over; if too few ports are free, that is an error."""
    first, second = free_ports(2)
    with socket.socket() as server, patch.object(ports, "RANGE", [first, second]):
        server.bind(("127.0.0.1", first))
        server.listen()
        for _ in range(20):
            assert free_ports(1) == [second]
        with pytest.raises(OSError, match="there are not 2 free ports"):
            free_ports(2)
