"""What the keeper of a model does next, from what it sees: the whole policy, and no call.

The first row that fits decides. "Loaded" is a model that Triton has ready, or has in part. A
frontend that only stands by goes through the same table: it is in the rows of `others'`.

    | lease           | model in Triton | and                                        | action    |
    |-----------------|-----------------|--------------------------------------------|-----------|
    | any             | any             | a load or an unload of ours is under way   | wait      |
    | lost            | absent or down  | over by our own clock                      | release   |
    | lost            | any other       | there is no time to ask anybody            | unload    |
    | ours            | down            | where nothing listens, no memory is in use | release   |
    | none of ours    | down            |                                            | wait      |
    | any             | silent          | nobody knows                               | wait      |
    | ours            | loaded          | it ends; others stand by, nobody asks back | hand over |
    | ours            | loaded          | it ends, or the memory is asked back       | unload    |
    | ours            | absent          | it ends, or the memory is asked back       | release   |
    | reserved        | absent          | a request waits, no load has failed        | load      |
    | reserved        | absent          | nobody wants it, or the load failed        | release   |
    | reserved        | in part         |                                            | load      |
    | reserved        | ready           |                                            | commit    |
    | committed       | absent          | gone: not loaded again under this lease    | release   |
    | committed       | in part         |                                            | unload    |
    | committed       | ready           | not used for as long as configured         | unload    |
    | doubtful        | absent or loaded| it ends, and no others stand by            | as ours   |
    | unprotected     | absent          | nothing is left to go on with              | release   |
    | doubtful,       | any             | it does not end; it is time to ask         | reserve   |
    | unprotected     |                 |                                            |           |
    | queued, refused | loaded          | the memory is not ours                     | unload    |
    | none            | loaded          | the ledger is away for longer than a lease | unload    |
    |                 |                 | lasts, and this is the first time since    |           |
    | none of ours    | any but absent  | it does not end, or handed over before;    | reserve   |
    |                 |                 | it is time to ask                          |           |
    | none of ours    | absent          | a request waits; it is time to ask         | reserve   |
    | else            |                 |                                            | wait      |

What is loading or unloading without us (a crash left it behind, another frontend does it) is waited
for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from frontend.triton.state import ModelState as Model
from model_boss import Standing


class Action(StrEnum):
    """What to do next."""

    WAIT = "wait"
    RESERVE = "reserve"
    LOAD = "load"
    COMMIT = "commit"
    UNLOAD = "unload"
    RELEASE = "release"
    HAND_OVER = "hand over"


@dataclass(frozen=True)
class Observation:
    """Everything that decides."""

    standing: Standing
    model: Model
    is_busy: bool = False
    """A load or an unload that this frontend began is under way."""
    is_wanted: bool = False
    """A request waits for the model, or has just been told to come back."""
    is_idle: bool = False
    """The model was not used, through REST or Triton, for as long as was configured."""
    is_closing: bool = False
    """This frontend ends."""
    others_stand_by: bool = False
    """Another frontend asked for the same lease lately."""
    handed_over: bool = False
    """This frontend ends and has handed the lease over; nobody knows yet who follows."""
    has_failed: bool = False
    """The last load under this lease failed."""
    is_due: bool = True
    """It is time to ask the ledger."""
    is_unproven: bool = False
    """The ledger has been away for longer than a lease lasts (`fail_closed`), and nothing was
    unloaded since.
    """


@dataclass(frozen=True)
class Decision:
    """An action and, for the log and the metrics, why the model goes."""

    action: Action
    reason: str = ""


WAIT: Final = Decision(Action.WAIT)
RESERVE: Final = Decision(Action.RESERVE)
_OURS: Final = frozenset({Standing.RESERVED, Standing.COMMITTED, Standing.YIELDING})
_KEPT: Final = _OURS | {Standing.DOUBTFUL, Standing.UNPROTECTED}
_LOADED: Final = frozenset({Model.READY, Model.PART})


def decide(seen: Observation) -> Decision:  # noqa: PLR0911 - the rows of a table
    """Choose the next action; see the table above."""
    if seen.is_busy:
        return WAIT
    if seen.standing is Standing.LOST:
        is_gone = seen.model in (Model.ABSENT, Model.DOWN)
        return Decision(Action.RELEASE) if is_gone else Decision(Action.UNLOAD, "lost")
    if seen.model is Model.DOWN:
        return Decision(Action.RELEASE, "gone") if seen.standing in _KEPT else WAIT
    if seen.model is Model.SILENT:
        return WAIT
    if seen.standing in _OURS:
        return _with_lease(seen)
    if seen.standing in (Standing.DOUBTFUL, Standing.UNPROTECTED):
        return _in_outage(seen)
    return _without_lease(seen)


def is_over(seen: Observation, decision: Decision) -> bool:
    """Tell whether a frontend that ends has nothing left to do."""
    if not seen.is_closing or seen.is_busy or decision.action is not Action.WAIT:
        return False
    return seen.standing not in _OURS and not (seen.handed_over and seen.model is not Model.ABSENT)


def _with_lease(seen: Observation) -> Decision:  # noqa: PLR0911 - the rows of a table
    if seen.is_closing or seen.standing is Standing.YIELDING:
        return _given_up(seen)
    reserved = seen.standing is Standing.RESERVED
    match seen.model:
        case Model.ABSENT if reserved and seen.is_wanted and not seen.has_failed:
            return Decision(Action.LOAD)
        case Model.ABSENT:
            return Decision(Action.RELEASE, "" if reserved else "gone")
        case Model.PART:
            return Decision(Action.LOAD) if reserved else Decision(Action.UNLOAD, "gone")
        case Model.READY if reserved:
            return Decision(Action.COMMIT)
        case Model.READY if seen.is_idle:
            return Decision(Action.UNLOAD, "idle")
    return WAIT


def _given_up(seen: Observation) -> Decision:
    yields = seen.standing is Standing.YIELDING
    if seen.model is Model.ABSENT:
        return Decision(Action.RELEASE)
    if seen.model not in _LOADED:
        return WAIT
    if seen.others_stand_by and not yields:
        return Decision(Action.HAND_OVER)
    return Decision(Action.UNLOAD, "yield" if yields else "closing")


def _in_outage(seen: Observation) -> Decision:
    """Decide while nobody knows whether another frontend or service holds the memory by now."""
    doubtful = seen.standing is Standing.DOUBTFUL
    if doubtful and seen.is_closing:
        return WAIT if seen.others_stand_by else _given_up(seen)
    if not doubtful and seen.model is Model.ABSENT:
        return Decision(Action.RELEASE, "gone")
    return RESERVE if seen.is_due and not seen.is_closing else WAIT


def _without_lease(seen: Observation) -> Decision:
    if seen.is_closing and not seen.handed_over:
        return WAIT
    if seen.model in _LOADED:
        if seen.standing in (Standing.QUEUED, Standing.REFUSED):
            return Decision(Action.UNLOAD, "unleased")
        if seen.standing is Standing.NONE and seen.is_unproven:
            return Decision(Action.UNLOAD, "lost")
    if seen.model is Model.ABSENT and (seen.is_closing or not seen.is_wanted):
        return WAIT
    return RESERVE if seen.is_due else WAIT
