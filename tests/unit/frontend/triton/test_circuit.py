"""The circuit breaker before Triton."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from frontend.triton.circuit import Circuit
from frontend.triton.errors import NotReady, QueueFull, TimedOut, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    """A clock that the test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def _failing(circuit: Circuit) -> Iterator[None]:
    """Run the block within an attempt that then fails."""
    with suppress(Unavailable), circuit.attempt():
        yield
        raise NotReady("dead")


def _fail(circuit: Circuit, error: Exception | None = None) -> None:
    error = error or NotReady("dead")
    with pytest.raises(type(error)), circuit.attempt():
        raise error


def test_it_opens_after_failures_in_a_row() -> None:
    """Three failures in a row open the circuit; a success between them starts a new count."""
    circuit = Circuit(max_failures=3, open_s=1, clock=Clock())
    _fail(circuit)
    _fail(circuit)
    with circuit.attempt():
        pass
    _fail(circuit)
    _fail(circuit)
    circuit.check()
    _fail(circuit)
    assert circuit.is_open
    with pytest.raises(Unavailable) as refused:
        circuit.check()
    assert refused.value.retry_after_s == 1
    with pytest.raises(Unavailable), circuit.attempt():
        pytest.fail("let through")


def test_it_lets_one_attempt_through_after_a_while() -> None:
    """After a while the circuit lets one attempt through and refuses the others meanwhile.

    If the attempt succeeds the circuit closes, if it fails it opens anew.
    """
    clock = Clock()
    circuit = Circuit(max_failures=1, open_s=1, clock=clock)
    _fail(circuit)
    clock.now_s = 1.0
    with _failing(circuit):
        assert circuit.is_open
        with pytest.raises(Unavailable):
            circuit.check()
    clock.now_s = 1.9
    assert circuit.is_open
    clock.now_s = 2.0
    with circuit.attempt():
        assert circuit.is_open
    circuit.check()


@pytest.mark.parametrize("error", [QueueFull("full"), TimedOut("late"), KeyError("defect")])
def test_other_errors_say_nothing_about_triton(error: Exception) -> None:
    """A full queue, a deadline or a defect does not count as a failure of Triton.

    Such an error also makes room for the next attempt of a half-open circuit.
    """
    clock = Clock()
    circuit = Circuit(max_failures=2, open_s=1, clock=clock)
    for _ in range(5):
        _fail(circuit, error)
    assert not circuit.is_open
    _fail(circuit)
    _fail(circuit)
    clock.now_s = 1.0
    _fail(circuit, error)
    with circuit.attempt():
        pass
    assert not circuit.is_open
