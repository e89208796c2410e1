"""The deadline of a request."""

from __future__ import annotations

import pytest

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded, InvalidRequest


def test_the_header_is_milliseconds_and_the_server_bounds_it() -> None:
    """Without the header the default holds; with it the header, up to the server's own limit."""
    for value, seconds in ((None, 60), ("1500", 1.5), ("300000", 300), ("999999999", 300)):
        deadline = Deadline.of_header(value, default_s=60, max_s=300)
        assert seconds - 1 < deadline.remaining_s() <= seconds


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "1e3", " 5", "soon", "٣", "1" * 10, "0x10"])
def test_a_header_that_is_no_positive_whole_number(value: str) -> None:
    """Anything else than ASCII digits of a positive number is an invalid request."""
    with pytest.raises(InvalidRequest):
        Deadline.of_header(value, default_s=60, max_s=300)


def test_a_deadline_that_has_passed() -> None:
    """Asking for the rest of a deadline that has passed raises."""
    with pytest.raises(DeadlineExceeded):
        Deadline.after(-1).remaining_s()
