"""The deadline of a request."""

from __future__ import annotations

import pytest

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded


def test_a_deadline_that_has_passed() -> None:
    """Asking for the remaining time of a passed deadline raises an error."""
    with pytest.raises(DeadlineExceeded):
        Deadline.after(-1).remaining_s()


async def test_a_block_within_a_deadline() -> None:
    """A block may take what is left of the deadline, and does not begin if nothing is left."""
    async with Deadline.after(60).timeout() as scope:
        assert scope.when() is not None
    with pytest.raises(DeadlineExceeded):
        Deadline.after(-1).timeout()
