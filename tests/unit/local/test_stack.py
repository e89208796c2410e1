"""What somebody at the terminal is told when Triton ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local.stack import _last_error, _last_words

if TYPE_CHECKING:
    from pathlib import Path

NO_DRIVER = 'E1123 03:15:45.932971 11517 server.cc:241] "CudaDriverHelper has not been initialized."'
LOADING = 'I1123 03:15:45.939080 11517 model_lifecycle.cc:472] "loading: image_reward_network:1"'
ABORT = "  what():  boost::interprocess::lock_exception"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "it wrote nothing"),
        ([NO_DRIVER, LOADING, ABORT], "what():  boost::interprocess::lock_exception"),
        ([NO_DRIVER, 'E1 a.cc:1] "one"', LOADING, 'E1 a.cc:2] "two"', ABORT], "two"),
        ([NO_DRIVER, 'E1 a.cc:1] "failed to load x: no"', 'E1 a.cc:2] "two"'], "failed to load x: no"),
    ],
)
def test_the_most_telling_line_is_told(tmp_path: Path, lines: list[str], told: str) -> None:
    """A missing GPU driver ends nothing, and is not named as the reason."""
    log = tmp_path / "triton.log"
    log.write_text("\n".join(lines))
    assert _last_error(log) == f"{told} (log: {log})"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ["stub: no libpython", LOADING, NO_DRIVER, "| backend |", "+----+", ""],
            "stub: no libpython (log: {log})",
        ),
        ([NO_DRIVER, LOADING], "it wrote nothing; see {log}"),
    ],
)
def test_the_last_words_of_a_dying_stub(tmp_path: Path, lines: list[str], told: str) -> None:
    """What Triton itself goes on writing is not what its Python process died of."""
    log = tmp_path / "triton.log"
    log.write_text("\n".join(lines))
    assert _last_words(log) == told.format(log=log)
