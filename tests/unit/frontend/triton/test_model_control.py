"""When an unload may be believed; `tests/integration/gpu` has what a real Triton does."""

from __future__ import annotations

import pytest

from frontend.triton.errors import Unavailable
from frontend.triton.model_control import ModelControl
from local.ports import free_ports
from tests.unit.frontend.triton.stand_in import standing_in


async def test_a_triton_that_does_not_run_holds_no_memory() -> None:
    """Where nobody listens, there is nothing to unload."""
    (port,) = free_ports(1)
    await ModelControl(f"127.0.0.1:{port}", None, load_timeout_s=5).unload()


@pytest.mark.parametrize("is_silent", [True, False])
async def test_a_triton_that_does_not_unload_may_hold_it_still(*, is_silent: bool) -> None:
    """Neither silence nor a refusal means that the memory is free."""
    async with standing_in() as triton:
        triton.metadata_failure = (403, "expecting header")
        if is_silent:
            triton.open.clear()
        with pytest.raises(Unavailable):
            await ModelControl(f"127.0.0.1:{triton.port}", None, load_timeout_s=0.3).unload()
