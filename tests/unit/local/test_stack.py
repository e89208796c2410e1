"""What the terminal shows when Triton ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local.stack import _reason

if TYPE_CHECKING:
    from pathlib import Path

NO_DRIVER = 'E1123 03:15:45.932971 11517 server.cc:241] "CudaDriverHelper has not been initialized."'
LOADING = 'I1123 03:15:45.939080 11517 model_lifecycle.cc:472] "loading: image_reward_network:1"'
ABORT = "  what():  boost::interprocess::lock_exception"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "it gave no reason"),
        ([NO_DRIVER, LOADING, ABORT], "what():  boost::interprocess::lock_exception"),
        ([NO_DRIVER, 'E1 a.cc:1] "one"', LOADING, 'E1 a.cc:2] "two"', ABORT], "two"),
        ([NO_DRIVER, 'E1 a.cc:1] "failed to load x: no"', 'E1 a.cc:2] "two"'], "failed to load x: no"),
        (["stub: no libpython", LOADING, NO_DRIVER, "| backend |", "+----+", ""], "stub: no libpython"),
        ([NO_DRIVER, LOADING], "it gave no reason"),
    ],
)
def test_the_most_telling_line_is_told(tmp_path: Path, lines: list[str], told: str) -> None:
    """The reason that is shown is the one of which Triton died.

    A missing GPU driver is not the reason, nor is what Triton writes afterwards.
    """
    log = tmp_path / "triton.log"
    log.write_text("\n".join(lines))
    assert _reason(log) == f"{told} (log: {log})"
