"""How long a lease holds by the holder's own clock, and what the ledger's answers mean for it.

Redis is not needed.
"""

from __future__ import annotations

import pytest

from model_boss import (
    Claim,
    ClaimRefused,
    Granted,
    Held,
    LedgerUnavailable,
    Phase,
    Standing,
    Tenure,
    Waiting,
    WaitReason,
)

TTL_S = 30.0
CLAIM = Claim("GPU-0", "triton-1", "a service", "model", 100, 500, "one")


class Scripted:
    """A ledger that gives the answers it was told to give."""

    ttl_s = TTL_S

    def __init__(self) -> None:
        self.answer: Granted | Held | Waiting | Exception | None = Granted(7)
        self.asked: list[str] = []

    async def reserve(self, claim: Claim) -> Granted | Held | Waiting:
        assert claim == CLAIM
        answer = self._told("reserve")
        assert answer is not None
        return answer

    async def commit(self, claim: Claim, granted: Granted, used_mb: int | None = None) -> Granted | None:
        del used_mb
        return self._lease("commit", claim, granted.fence)

    async def renew(self, claim: Claim, granted: Granted, *, in_use: bool) -> Granted | None:
        return self._lease("renew in use" if in_use else "renew", claim, granted.fence)

    async def release(self, claim: Claim, fence: int, heir: str = "") -> None:
        assert not heir
        self._lease("release", claim, fence)

    async def hand_over(self, claim: Claim, fence: int) -> None:
        self._lease("hand_over", claim, fence)

    async def room_mb(self, gpu: str) -> int | None:
        del gpu
        return None

    async def aclose(self) -> None:
        pass

    def _lease(self, call: str, claim: Claim, fence: int) -> Granted | None:
        assert (claim, fence) == (CLAIM, 7)
        answer = self._told(call)
        assert answer is None or isinstance(answer, Granted)
        return answer

    def _told(self, call: str) -> Granted | Held | Waiting | None:
        self.asked.append(call)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    """A clock that the test sets."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def ledger() -> Scripted:
    return Scripted()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _tenure(ledger: Scripted, clock: Clock, *, fail_open: bool = False) -> Tenure:
    return Tenure(ledger, fail_open=fail_open, clock=clock)


@pytest.mark.parametrize(("fail_open", "after_all"), [(False, Standing.LOST), (True, Standing.UNPROTECTED)])
async def test_what_a_heartbeat_is_good_for(
    ledger: Scripted, clock: Clock, *, fail_open: bool, after_all: Standing
) -> None:
    """After the last heartbeat a lease is ours for two thirds of its time to live.

    Then it is doubtful, and after the whole time it is over. Each limit comes a tenth of the time
    to live early.
    """
    tenure = _tenure(ledger, clock, fail_open=fail_open)
    await tenure.ask(CLAIM)
    for after_s, standing in (
        (16.9, Standing.RESERVED),
        (0.2, Standing.DOUBTFUL),
        (9.8, Standing.DOUBTFUL),
        (0.2, after_all),
    ):
        clock.now_s += after_s
        assert tenure.standing is standing
        assert not await _beats(tenure, ledger) or standing is Standing.RESERVED
    assert tenure.expires_in_s == 0


async def _beats(tenure: Tenure, ledger: Scripted) -> bool:
    """Let the tenure renew while the ledger is away; return whether it tried."""
    before, ledger.answer = len(ledger.asked), LedgerUnavailable("away")
    await tenure.beat(in_use=False)
    return len(ledger.asked) > before


async def test_it_renews_every_third_of_a_time_to_live(ledger: Scripted, clock: Clock) -> None:
    """The lease is renewed every third of its time to live, and sooner after a failure.

    The answer to a renewal decides how the lease stands.
    """
    tenure = _tenure(ledger, clock)
    await tenure.ask(CLAIM)
    assert not await tenure.beat(in_use=True)
    clock.now_s += 10
    ledger.answer = Granted(7, Phase.ACTIVE, others_stand_by=True)
    assert await tenure.beat(in_use=True)
    assert (tenure.standing, ledger.asked[-1]) == (Standing.COMMITTED, "renew in use")
    clock.now_s += 10
    ledger.answer = LedgerUnavailable("away")
    assert not await tenure.beat(in_use=False)
    assert (tenure.outage, tenure.due_in_s(is_urgent=False)) == ("away", 1.0)
    clock.now_s += 1
    assert tenure.outage_s == 1.0
    ledger.answer = Granted(7, Phase.YIELDING)
    assert await tenure.beat(in_use=False)
    assert (tenure.standing, tenure.outage) == (Standing.YIELDING, None)
    clock.now_s += 10
    ledger.answer = None
    assert await tenure.beat(in_use=False)
    assert (tenure.standing, tenure.lease) == (Standing.NONE, None)


@pytest.mark.parametrize(
    ("answer", "standing", "due_in_s"),
    [
        (Held("two", 8), Standing.OTHERS, 10.0),
        (Waiting(), Standing.QUEUED, 0.375),
        (Waiting(0, WaitReason.GRACE), Standing.SETTLING, 0.375),
        (ClaimRefused("too large"), Standing.REFUSED, 10.0),
        (LedgerUnavailable("away"), Standing.NONE, 1.0),
    ],
)
async def test_what_it_is_told_without_a_lease(
    ledger: Scripted, clock: Clock, answer: Held | Waiting | Exception, standing: Standing, due_in_s: float
) -> None:
    """Each answer to a request for a lease has its standing and its time to ask again.

    Where a request waits, the next question comes soon.
    """
    tenure = _tenure(ledger, clock)
    ledger.answer = answer
    await tenure.ask(CLAIM)
    assert tenure.standing is standing
    assert 0 < tenure.due_in_s(is_urgent=False) <= due_in_s
    assert tenure.due_in_s(is_urgent=True) <= 0.375
    assert tenure.others == (answer if isinstance(answer, Held) else None)
    clock.now_s += TTL_S + 0.1
    assert tenure.standing is (Standing.NONE if standing is Standing.OTHERS else standing)


async def test_answers_are_forgotten_when_the_model_comes_or_goes(ledger: Scripted, clock: Clock) -> None:
    """An old answer is forgotten when the model is loaded or unloaded.

    Another holder may have got a lease since then. A loaded model must not be unloaded because of
    an old answer.
    """
    tenure = _tenure(ledger, clock)
    ledger.answer = Waiting()
    await tenure.ask(CLAIM)
    tenure.forget_answer()
    assert tenure.standing is Standing.NONE


async def test_who_handed_over_asks_again_later(ledger: Scripted, clock: Clock) -> None:
    """After a hand-over the lease is no longer renewed, but asked about again later.

    The answer tells whether another process has the lease now.
    """
    tenure = _tenure(ledger, clock)
    await tenure.ask(CLAIM)
    await tenure.hand_over()
    assert (tenure.standing, tenure.handed_over) == (Standing.NONE, True)
    assert tenure.due_in_s(is_urgent=True) == 11.0
    clock.now_s += 11
    assert not await tenure.beat(in_use=False)
    ledger.answer = Held("two", 8)
    await tenure.ask(CLAIM)
    assert (tenure.standing, tenure.handed_over) == (Standing.OTHERS, False)


async def test_what_is_over_is_not_given_back(ledger: Scripted, clock: Clock) -> None:
    """A lease that is over is not released, because its memory may belong to another by now.

    A release that does not reach the ledger is not repeated: the lease ends by itself.
    """
    tenure = _tenure(ledger, clock)
    await tenure.ask(CLAIM)
    ledger.answer = LedgerUnavailable("away")
    await tenure.release()
    assert (tenure.standing, ledger.asked) == (Standing.NONE, ["reserve", "release"])
    ledger.answer = Granted(7)
    await tenure.ask(CLAIM)
    clock.now_s += TTL_S
    await tenure.release()
    assert (tenure.standing, ledger.asked[2:]) == (Standing.NONE, ["reserve"])


async def test_a_commit_that_meets_a_ledger_without_memory(ledger: Scripted, clock: Clock) -> None:
    """A ledger that has forgotten the lease is reminded by a renewal.

    Only then is the lease given up.
    """
    tenure = _tenure(ledger, clock)
    await tenure.ask(CLAIM)
    ledger.answer = None
    await tenure.commit()
    assert ledger.asked[1:] == ["commit", "renew in use"]
    assert tenure.standing is Standing.NONE
