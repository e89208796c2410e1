"""A GPU of a test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.gpu.shared_gpu import SharedGpu

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def shared(published_repository: Path, tmp_path: Path) -> AsyncIterator[SharedGpu]:
    """Redis, Triton and a ledger of one GPU, without any frontend yet."""
    async with SharedGpu(published_repository, tmp_path) as shared:
        yield shared
