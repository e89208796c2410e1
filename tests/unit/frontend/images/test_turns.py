"""Whose image is decoded next."""

from __future__ import annotations

import asyncio

import pytest

from frontend.images.turns import TooManyWait, Turns


async def _asked(turns: Turns, *requests: str) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(turns.take(request)) for request in requests]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def _given(tasks: list[asyncio.Task[None]]) -> list[int]:
    return [index for index, task in enumerate(tasks) if task.done()]


async def test_no_request_holds_every_place() -> None:
    """A batch leaves one place free, and another request gets it at once."""
    turns = Turns(3, max_each=2)
    batch = await _asked(turns, *["batch"] * 10)
    assert _given(batch) == [0, 1]
    assert _given(await _asked(turns, "other")) == [0]
    turns.give_back("other")
    await asyncio.sleep(0)
    assert _given(batch) == [0, 1]


async def test_how_many_places_are_taken() -> None:
    """A place counts as taken from its taking until it is given back; those who wait do not."""
    turns = Turns(2, max_each=2)
    assert turns.taken == 0
    await _asked(turns, "one", "other", "third")
    assert turns.taken == 2
    turns.give_back("one")
    assert turns.taken == 2
    turns.give_back("other")
    assert turns.taken == 1


async def test_requests_take_turns() -> None:
    """With one place, a batch's images alternate with other requests, in order of arrival."""
    turns = Turns(1, max_each=1)
    asked = ["first", "batch", "batch", "batch", "other", "third", "other"]
    tasks = await _asked(turns, *asked)
    order: list[int] = []
    for _ in asked:
        (given,) = set(_given(tasks)) - set(order)
        order.append(given)
        turns.give_back(asked[given])
        await asyncio.sleep(0)
    assert [asked[index] for index in order] == [
        "first",
        *("batch", "other", "third"),
        *("batch", "other"),
        "batch",
    ]


async def test_who_has_used_least_is_next() -> None:
    """Who comes while several wait with many slow images waits for one running image only."""
    turns = Turns(2, max_each=1)
    slow = await _asked(turns, *["a", "b", "c", "d"] * 5)
    for who in ("a", "b", "c", "d"):
        turns.give_back(who, 5)
        await asyncio.sleep(0)
    assert len(_given(slow)) == 6
    good = await _asked(turns, "good")
    turns.give_back("a", 5)
    await asyncio.sleep(0)
    assert _given(good) == [0]


async def test_who_is_cancelled_costs_nobody_a_turn() -> None:
    """A caller who is cancelled, while waiting or just after getting a place, lets the next one in.

    Nothing of that caller is remembered.
    """
    turns = Turns(1, max_each=1)
    holder, waiting, last = await _asked(turns, "a", "b", "c")
    waiting.cancel()
    turns.give_back("a")  # given to c
    last.cancel()  # who leaves before he notices
    await asyncio.gather(waiting, last, return_exceptions=True)
    assert holder.done()
    await asyncio.wait_for(turns.take("d"), 5)
    turns.give_back("d")
    assert not turns._held
    assert not turns._used_s
    assert not turns._waiting


@pytest.mark.parametrize("places", [1, 2, 5])
async def test_all_places_are_used(places: int) -> None:
    """As many requests as there are places work at once, and no more."""
    turns = Turns(places, max_each=1)
    tasks = await _asked(turns, *[f"request {n}" for n in range(places + 2)])
    assert _given(tasks) == list(range(places))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_waits_for_most_is_sent_away() -> None:
    """If too many wait, who waits for most loses what came last, and a newcomer may wait."""
    turns = Turns(1, max_each=1, max_waiting=3)
    many = await _asked(turns, *["many"] * 4)
    assert _given(many) == [0]
    other = await _asked(turns, "other")
    assert _given(many) == [0, 3]
    with pytest.raises(TooManyWait):
        await many[3]
    turns.give_back("many")
    await asyncio.sleep(0)
    turns.give_back("many")
    await asyncio.sleep(0)
    assert _given(other) == [0]


async def test_among_equals_the_newcomer_is_sent_away() -> None:
    """If all wait for one turn each, the newcomer is sent away.

    Who has left waits no longer.
    """
    turns = Turns(1, max_each=1, max_waiting=2)
    tasks = await _asked(turns, "held", "a", "b")
    (late,) = await _asked(turns, "late")
    with pytest.raises(TooManyWait):
        await late
    tasks[1].cancel()
    await asyncio.sleep(0)
    assert _given(await _asked(turns, "later")) == []
