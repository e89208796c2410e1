"""When an unload may be believed; `tests/integration/gpu` has what a real Triton does."""

from __future__ import annotations

import pytest

from frontend.triton.errors import Unavailable
from frontend.triton.model_control import ModelControl, state_of
from frontend.triton.state import ModelState
from tests.ports import free_ports
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


@pytest.mark.parametrize(
    ("versions", "ensemble", "served", "state"),
    [
        ({}, set(), {3}, ModelState.ABSENT),
        ({3: "UNAVAILABLE"}, {"UNAVAILABLE"}, {3}, ModelState.ABSENT),
        ({3: "LOADING"}, set(), {3}, ModelState.LOADING),
        ({3: "READY"}, {"LOADING"}, {3}, ModelState.LOADING),
        ({3: "READY"}, set(), {3}, ModelState.PART),
        ({3: "READY"}, {"READY"}, {3}, ModelState.READY),
        ({3: "READY"}, {"READY"}, set(), ModelState.READY),
        ({3: "READY", 4: "LOADING"}, {"READY"}, {3}, ModelState.READY),
        ({3: "UNLOADING", 4: "READY"}, {"READY"}, {4}, ModelState.READY),
        ({3: "READY", 4: "LOADING"}, {"READY"}, {3, 4}, ModelState.LOADING),
        ({3: "READY", 4: "UNAVAILABLE"}, {"READY"}, {3, 4}, ModelState.PART),
        ({3: "READY", 4: "READY"}, {"READY"}, {3, 4}, ModelState.READY),
        ({3: "UNLOADING", 4: "UNLOADING"}, {"UNAVAILABLE"}, {3, 4}, ModelState.UNLOADING),
        ({3: "READY"}, {"READY"}, {4}, ModelState.PART),
    ],
)
def test_the_model_is_ready_when_all_served_versions_are(
    versions: dict[int, str], ensemble: set[str], served: set[int], state: ModelState
) -> None:
    """The model is ready when all served versions are.

    What a promotion loads or drops beside them changes nothing.
    """
    assert state_of(versions, ensemble, served) is state
