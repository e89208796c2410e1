"""Connections and messages that keep to no rules of HTTP, or to its rules alone."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from tests.hostile.good_caller import Service, service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def _open(attacked: Service, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Open connections and keep them, whatever comes back."""
    writers: list[asyncio.StreamWriter] = []
    try:
        for _ in range(count):
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", attacked.port)
                writers.append(writer)
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def test_idle_connections_shut_nobody_out(tmp_path: Path) -> None:
    """More idle connections than open files are allowed cost a good caller nothing.

    Health is answered, and the log does not grow with them.
    """
    async with (
        service(tmp_path, max_files=512) as attacked,
        attacked.with_good_caller("700 idle connections, 512 open files"),
    ):
        before = attacked.log.stat().st_size
        async with _open(attacked, 700):
            for _ in range(10):
                assert await attacked.health() == 200
                assert (await attacked.ask("/score", b"{}"))[0] == 422
        assert attacked.log.stat().st_size < before + 20_000
