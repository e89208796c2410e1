"""One redis-server for all tests that need no other; each test finds it empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.model_boss.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """An empty Redis that other tests use after this one, so it must not be killed."""
    with shared_server.client() as client:
        client.flushall()
        client.script_flush()
    return shared_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may kill and start again."""
    with RedisServer(tmp_path) as server:
        yield server
