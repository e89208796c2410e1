"""What the keeper does next, by the rows of the table in `frontend/gpu/decide.py`.

Neither Redis nor Triton is needed.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from frontend.gpu import decide as module
from frontend.gpu.decide import Action, Observation, decide, is_over
from frontend.triton.state import ModelState
from model_boss import Standing

NONE, OTHERS, QUEUED, SETTLING, REFUSED = (
    Standing.NONE,
    Standing.OTHERS,
    Standing.QUEUED,
    Standing.SETTLING,
    Standing.REFUSED,
)
RESERVED, COMMITTED, YIELDING = Standing.RESERVED, Standing.COMMITTED, Standing.YIELDING
DOUBTFUL, UNPROTECTED, LOST = Standing.DOUBTFUL, Standing.UNPROTECTED, Standing.LOST
ABSENT, LOADING, READY, PART = ModelState.ABSENT, ModelState.LOADING, ModelState.READY, ModelState.PART
UNLOADING, SILENT, DOWN = ModelState.UNLOADING, ModelState.SILENT, ModelState.DOWN
OURS = (RESERVED, COMMITTED, YIELDING)
NOT_OURS = (NONE, OTHERS, QUEUED, SETTLING, REFUSED)
LOADED = (READY, PART)
NOT_DUE: dict[str, Any] = {"is_due": False}
WANTED: dict[str, Any] = {"is_wanted": True}
CLOSING: dict[str, Any] = {"is_closing": True}

# For each row of the docstring's table, from 0 on: leases, models, further observations, and the
# expected action.
Cases = list[tuple[tuple[Standing, ...], tuple[ModelState, ...], dict[str, Any], str]]
ROWS: list[Cases] = [
    [(tuple(Standing), tuple(ModelState), {"is_busy": True, **WANTED, **CLOSING}, "wait")],
    [((LOST,), (ABSENT, DOWN), {}, "release")],
    [((LOST,), (READY, PART, LOADING, UNLOADING, SILENT), {}, "unload, lost")],
    [((*OURS, DOUBTFUL, UNPROTECTED), (DOWN,), {}, "release, gone")],
    [(NOT_OURS, (DOWN,), WANTED, "wait")],
    [((*OURS, *NOT_OURS, DOUBTFUL, UNPROTECTED), (SILENT,), {**WANTED, **CLOSING}, "wait")],
    [((RESERVED, COMMITTED), LOADED, {**CLOSING, "others_stand_by": True}, "hand over")],
    [
        ((RESERVED, COMMITTED), LOADED, CLOSING, "unload, closing"),
        ((YIELDING,), LOADED, {"others_stand_by": True}, "unload, yield"),
        ((YIELDING,), LOADED, {**CLOSING, "others_stand_by": True}, "unload, yield"),
    ],
    [((*OURS,), (ABSENT,), CLOSING, "release"), ((YIELDING,), (ABSENT,), WANTED, "release")],
    [((RESERVED,), (ABSENT,), WANTED, "load")],
    [
        ((RESERVED,), (ABSENT,), {}, "release"),
        ((RESERVED,), (ABSENT,), {**WANTED, "has_failed": True}, "release"),
    ],
    [((RESERVED,), (PART,), {}, "load")],
    [((RESERVED,), (READY,), {"is_idle": True}, "commit")],
    [((COMMITTED,), (ABSENT,), WANTED, "release, gone")],
    [((COMMITTED,), (PART,), WANTED, "unload, gone")],
    [((COMMITTED,), (READY,), {"is_idle": True}, "unload, idle")],
    [((DOUBTFUL,), LOADED, CLOSING, "unload, closing"), ((DOUBTFUL,), (ABSENT,), CLOSING, "release")],
    [((UNPROTECTED,), (ABSENT,), WANTED, "release, gone")],
    [
        ((DOUBTFUL,), (ABSENT, LOADING, READY, PART, UNLOADING), {}, "reserve"),
        ((UNPROTECTED,), (LOADING, READY, PART, UNLOADING), {}, "reserve"),
    ],
    [((QUEUED, REFUSED), LOADED, WANTED, "unload, unleased")],
    [((NONE,), LOADED, {"is_unproven": True}, "unload, lost")],
    [
        ((NONE, OTHERS, SETTLING), (LOADING, READY, PART, UNLOADING), {}, "reserve"),
        ((QUEUED, REFUSED), (LOADING, UNLOADING), {}, "reserve"),
        ((NONE,), (LOADING, READY, PART, UNLOADING), {**CLOSING, "handed_over": True}, "reserve"),
    ],
    [(NOT_OURS, (ABSENT,), WANTED, "reserve")],
    [
        ((COMMITTED,), (READY,), WANTED, "wait"),
        (OURS, (LOADING, UNLOADING), {**WANTED, **CLOSING}, "wait"),
        ((DOUBTFUL,), LOADED, {**CLOSING, "others_stand_by": True}, "wait"),
        ((UNPROTECTED,), LOADED, CLOSING, "wait"),
        ((DOUBTFUL, UNPROTECTED), LOADED, NOT_DUE, "wait"),
        (NOT_OURS, (ABSENT, LOADING, READY, UNLOADING), {**WANTED, **CLOSING}, "wait"),
        (NOT_OURS, (ABSENT,), {}, "wait"),
        (NOT_OURS, (ABSENT,), {**WANTED, **NOT_DUE}, "wait"),
        ((NONE, OTHERS, SETTLING), LOADED, NOT_DUE, "wait"),
    ],
]


def _actions_of_the_docstring() -> list[str]:
    lines = [line.strip() for line in (module.__doc__ or "").splitlines()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    # A row that does not fit one line goes on in the next line, which names no action.
    return [row[3] for row in cells[2:] if row[3]]


def test_the_table_of_the_docstring_is_the_one_that_is_tested() -> None:
    """Every row of the table has its cases in this file, in the same order.

    They name the same action as the row.
    """
    said = _actions_of_the_docstring()
    tested = [cases[0][3].partition(",")[0] for cases in ROWS]
    assert [action for action in said if action != "as ours"] == [
        action for action, line in zip(tested, said, strict=True) if line != "as ours"
    ]


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_every_row_decides_what_it_says(row: int) -> None:
    """Every row gives its action for each lease and each model state that it names."""
    for standings, models, more, expected in ROWS[row]:
        for standing, model in product(standings, models):
            decision = decide(Observation(standing, model, **more))
            found = decision.action + (f", {decision.reason}" if decision.reason else "")
            assert found == expected, (standing, model, more)


def _all_observations() -> list[Observation]:
    flags = [name for name in Observation.__dataclass_fields__ if name not in ("standing", "model")]
    return [
        Observation(standing, model, **dict(zip(flags, values, strict=True)))
        for standing, model in product(Standing, ModelState)
        for values in product((False, True), repeat=len(flags))
    ]


def test_whatever_is_seen_memory_is_used_only_under_a_lease() -> None:
    """Whatever is seen, memory is used only under a lease.

    The model is loaded only under a lease, and a lease is released only when the model is unloaded.
    While the model is busy, nothing is done.
    """
    for seen in _all_observations():
        action = decide(seen).action
        if action is Action.LOAD:
            assert seen.standing is RESERVED
            assert seen.model in (ABSENT, PART)
        if action is Action.RELEASE:
            assert seen.model in (ABSENT, DOWN)
        if action is Action.COMMIT:
            assert (seen.standing, seen.model) == (RESERVED, READY)
        if action is Action.HAND_OVER:
            assert seen.is_closing
            assert seen.others_stand_by
            assert seen.standing in (RESERVED, COMMITTED)
        if action is Action.UNLOAD:
            assert seen.model is not ABSENT
            assert seen.standing is not OTHERS
        if seen.is_busy:
            assert action is Action.WAIT


def test_a_model_without_a_lease_never_stays() -> None:
    """A loaded model without a lease does not stay: a lease is asked for, or it is unloaded.

    The exceptions are that others hold the lease, that others may hold it, and that Triton does not
    answer.
    """
    for seen in _all_observations():
        if seen.model is not READY or seen.is_busy or not seen.is_due or seen.is_closing:
            continue
        if seen.standing in (NONE, QUEUED, REFUSED, LOST):
            assert decide(seen).action in (Action.RESERVE, Action.UNLOAD)


def test_a_frontend_ends_when_nothing_is_left_to_do() -> None:
    """A frontend that closes gives back its lease first.

    After a hand-over, it stays until it knows who has the lease.
    """
    held = Observation(COMMITTED, READY, is_closing=True)
    assert not is_over(held, decide(held))
    gone = replace(held, standing=NONE, model=ABSENT)
    assert is_over(gone, decide(gone))
    stands_by = replace(held, standing=OTHERS)
    assert is_over(stands_by, decide(stands_by))
    handed_over = replace(held, standing=NONE, handed_over=True, is_due=False)
    assert not is_over(handed_over, decide(handed_over))
    assert not is_over(replace(gone, is_closing=False), decide(gone))
