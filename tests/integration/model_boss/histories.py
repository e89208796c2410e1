"""Random histories of clients, crashes, expiry, outages, restarts and failovers.

hypothesis makes them. A rule that needs a holder or a waiter picks one of those there are, by a
number. So most steps of a history do something. Calls that must be refused have a rule of their
own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model_boss import OnOutage
from tests.integration.model_boss.believer import TEMPERS, Temper
from tests.integration.model_boss.world import (
    BEGAN_AT_MS,
    CLIENTS,
    OWNER,
    ROOM_MB,
    TTL_MS,
    World,
    holder_of,
    lease_of,
)

if TYPE_CHECKING:
    from tests.integration.model_boss.turned_clock import TurnedLedger

clients = st.sampled_from(CLIENTS)
numbers = st.integers(0, 4)
sizes = st.sampled_from([1, 3, 4, 6, 6, 9, 10, 17, 18, 19])
small_sizes = st.sampled_from([1, 2, 3, 4, 5, 6])
priorities = st.sampled_from([0, 1, 2])
parts = st.sampled_from([0, 0.25, 0.5, 1])
flights = st.sampled_from([0, 0, 0.1, 0.4])

anybody_holds = precondition(lambda self: self.world.believers)
anybody_holds_and_others_stand_by = precondition(
    lambda self: any(holder_of(client) for client in self.world.believers)
)
anybody_waits = precondition(lambda self: self.world.reference.tickets)
anybody_is_cut_off = precondition(lambda self: self.world.cut_off)


class Histories(RuleBasedStateMachine):
    """Five leases of eight clients on one GPU of 20 MiB with a margin of 2."""

    ledger: ClassVar[TurnedLedger]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.ledger)
        self.measuring_since_ms: int | None = None
        self.reading: tuple[int, int] | None = None

    @initialize(
        crowd=st.lists(st.tuples(small_sizes, priorities), max_size=5),
        idle=st.integers(0, 31),
        is_old=st.booleans(),
        is_full=st.booleans(),
        tempers=st.lists(st.sampled_from(TEMPERS), min_size=8, max_size=8),
    )
    def begin(
        self, crowd: list[tuple[int, int]], idle: int, is_old: bool, is_full: bool, tempers: list[Temper]
    ) -> None:
        """Begin most histories after the first grace, and some with holders, a few of them idle."""
        closed = [temper for temper in TEMPERS if temper.on_outage is OnOutage.FAIL_CLOSED]
        for client, temper in zip(CLIENTS, tempers, strict=True):
            # A client that goes on without a lease does not know whether another holds it.
            # `docs/model-boss.md` says so.
            self.world.tempers[client] = closed[TEMPERS.index(temper) % 3] if holder_of(client) else temper
        if not crowd and not is_old:
            return
        self.world.reserve("a1")
        self.world.cancel("a1", OWNER)
        self.world.pass_time(TTL_MS)
        for client, (size, priority) in zip(("a1", "b1", "c", "d", "e"), crowd, strict=False):
            self.reserve_and_load(client, size, priority)
        if "a1" in self.world.believers:  # it holds its lease for the second time
            self.release(0)
            self.reserve_and_load("a1", *crowd[0])
        left_mb = ROOM_MB - self.world.reference.held_mb()
        if is_full and left_mb and "e" not in self.world.leases:
            self.reserve_and_load("e", left_mb, 1)
        if idle:
            for ms in (TTL_MS // 2, TTL_MS // 2):  # to the very millisecond from which they count as idle
                self._beat_after(ms)
            for number, client in enumerate(sorted(self.world.believers)):
                if not idle >> number & 1:
                    self.world.renew(client, self.world.believers[client].fence, in_use=True)

    # What clients do.

    @rule(client=clients, size=sizes, priority=priorities)
    def reserve(self, client: str, size: int, priority: int) -> None:
        if lease_of(client) not in self.world.leases:
            self.world.claims[lease_of(client)] = (size, priority)
        self.world.reserve(client)

    @rule(client=clients, size=sizes, priority=priorities)
    def reserve_and_load(self, client: str, size: int, priority: int) -> None:
        self.reserve(client, size, priority)
        if client in self.world.believers:
            self._commit(client, in_part=priority == 0)

    @anybody_waits
    @rule(number=numbers)
    def a_waiter_asks_again(self, number: int) -> None:
        queue = self.world.reference.queue()
        self.world.reserve(self._process_of(queue[min(number, len(queue) - 1)], number))

    @anybody_holds
    @rule(number=numbers, in_part=st.booleans())
    def commit(self, number: int, in_part: bool) -> None:
        self._commit(self._holder(number), in_part)

    @anybody_holds
    @rule(number=numbers, in_part=st.booleans())
    def load_or_unload(self, number: int, in_part: bool) -> None:
        believer = self.world.believers[self._holder(number)]
        if believer.phase == "reserved":
            believer.load(in_part)
        else:
            believer.unload()

    @anybody_holds
    @rule(number=numbers)
    def renew(self, number: int) -> None:
        client = self._holder(number)
        self.world.renew(client, self.world.believers[client].fence)

    @anybody_holds
    @rule(number=numbers)
    def renew_in_use(self, number: int) -> None:
        client = self._holder(number)
        self.world.renew(client, self.world.believers[client].fence, in_use=True)

    @anybody_holds
    @rule(number=numbers, more_mb=st.sampled_from([-9, -3, -1, 1, 2, 3, 9]))
    def renew_for_more_or_less(self, number: int, more_mb: int) -> None:
        client = self._holder(number)
        self.world.renew(client, self.world.believers[client].fence, more_mb=more_mb)

    @anybody_holds
    @rule(number=numbers, heir=clients)
    def give_to_an_heir(self, number: int, heir: str) -> None:
        client = self._holder(number)
        self.world.release(client, self.world.believers[client].fence, lease_of(heir))

    @anybody_holds
    @rule(number=numbers)
    def hand_over(self, number: int) -> None:
        client = self._holder(number)
        self.world.hand_over(client, self.world.believers[client].fence)

    @anybody_holds_and_others_stand_by
    @rule(
        number=numbers,
        how=st.sampled_from(["silent", "crash", "hand over"]),
        more_ms=st.sampled_from([-1, 0, 0, 1]),
        trouble=st.sampled_from(["none", "none", "fail over", "restart empty"]),
    )
    def a_holder_is_followed(self, number: int, how: str, more_ms: int, trouble: str) -> None:
        """Go to the very millisecond from which another may follow.

        Then the former holder and all others ask.
        """
        world = self.world
        named = sorted(client for client in world.believers if holder_of(client))
        client = named[number % len(named)]
        fence = world.believers[client].fence
        processes = [other for other in CLIENTS if lease_of(other) == lease_of(client)]
        if trouble == "fail over":
            world.copy_to_replica()
        if how == "hand over":
            world.hand_over(client, fence)
        else:
            world.renew(client, fence, in_use=False)
            if how == "crash" and client in world.believers:
                world.leave(client)
            world.pass_time(-(-2 * world.ttl_ms // 3) + more_ms)
        for other in (*reversed(processes), *processes):
            world.reserve(other)
            world.check_beliefs()
        if trouble == "none":
            return
        self.redis_is_in_trouble(trouble)
        for other in (client, *processes):
            world.reserve(other)
            if other in world.believers:
                world.renew(other, world.believers[other].fence)
            world.renew(client, fence)
            world.check_beliefs()

    @anybody_holds
    @rule(number=numbers)
    def release(self, number: int) -> None:
        client = self._holder(number)
        self.world.release(client, self.world.believers[client].fence)

    @anybody_holds
    @rule(part=parts)
    def time_passes_with_heartbeats(self, part: float) -> None:
        self._beat_after(round(self.world.ttl_ms * part) - 1 if part else 0)

    def _beat_after(self, ms: int) -> None:
        self.world.pass_time(ms)
        for client in sorted(self.world.believers):
            if client in self.world.believers:
                self.world.renew(client, self.world.believers[client].fence)
        for lease_id in self.world.reference.queue():
            self.world.reserve(self._process_of(lease_id, 0))

    @anybody_holds
    @rule(number=numbers)
    def crash(self, number: int) -> None:
        self.world.leave(self._holder(number))

    @rule(client=clients, what=numbers, is_next=st.booleans())
    def call_with_a_wrong_fence(self, client: str, what: int, is_next: bool) -> None:
        world, known = self.world, self.world.fences.get(client, [])
        recorded_fence = world.leases.get(lease_of(client), {}).get("fence", 0)
        older = [fence for fence in known if fence != recorded_fence]
        fence = (known[-1] if known else BEGAN_AT_MS) + 1 if is_next or not older else older[-1]
        if fence == recorded_fence:
            return  # another process's, and right
        calls = (world.renew, world.commit, world.hand_over, world.release, world.renew)
        if calls[what] == world.renew and world.would_admit_former_holders() and fence > recorded_fence:
            return  # no client renews what it never held, or after its own clock ended it
        calls[what](client, fence)

    @rule(client=clients, what=numbers, total_mb=st.sampled_from([20, 20, 12]))
    def something_rarer(self, client: str, what: int, total_mb: int) -> None:
        if what == 0:
            self.world.cancel(client, OWNER)
        elif what == 1:
            self.world.cancel(client, "a stranger")
            self.world.reserve(client, "a stranger") if lease_of(client) in self.world.leases else None
        elif what == 2:
            self.world.set_capacity(total_mb)
        elif lease_of(client) in self.world.leases:
            size, priority = self.world.claims[lease_of(client)]
            self.world.claims[lease_of(client)] = (size + 1, priority)
            self.world.reserve(client)
            self.world.claims[lease_of(client)] = (size, priority)

    @precondition(lambda self: self.world.reference.epoch)
    @rule(client=clients, ttl_ms=st.sampled_from([400, TTL_MS, 2500]))
    def reserve_with_another_ttl(self, client: str, ttl_ms: int) -> None:
        before_ms, self.world.ttl_ms = self.world.ttl_ms, ttl_ms
        self.world.reserve(client)
        if self.world.reference.epoch["ttl_ms"] != ttl_ms:  # refused, or held by another process anyway
            self.world.ttl_ms = before_ms
        else:
            self.world.replica = None  # one that has the former time to live would be too far behind

    # What happens to them.

    @rule(part=parts, more_ms=st.sampled_from([-1, 0, 1, 7]))
    def time_passes(self, part: float, more_ms: int) -> None:
        self.world.pass_time(max(0, round(self.world.ttl_ms * part) + more_ms))
        self.world.status()

    @rule(client=clients)
    def redis_is_out_of_reach(self, client: str) -> None:
        """For one client, all calls fail while time goes on."""
        self.world.cut_off.add(client)

    @anybody_is_cut_off
    @rule(number=numbers)
    def redis_is_in_reach_again(self, number: int) -> None:
        """A holder says at once that it is still there."""
        client = sorted(self.world.cut_off)[number % len(self.world.cut_off)]
        self.world.cut_off.remove(client)
        if client in self.world.believers:
            self.world.renew(client, self.world.believers[client].fence)

    @anybody_holds
    @rule(number=numbers, there=flights, back=flights)
    def a_holder_is_cut_off_and_another_takes_its_memory(
        self, number: int, there: float, back: float
    ) -> None:
        """A holder is cut off after a slow renewal.

        Another asks in the very millisecond in which the lease ends.
        """
        world, client = self.world, self._holder(number)
        holder, ttl_ms = world.believers[client], self.world.ttl_ms
        world.renew(client, holder.fence, round(there * ttl_ms), round(back * ttl_ms))
        world.cut_off.add(client)
        ends_at_ms = world.leases.get(lease_of(client), {}).get("expires_at_ms", 0)
        left_ms = max(0, ends_at_ms - world.now_ms)
        free_mb = world.room_mb() - world.reference.held_mb()
        others = [
            other for other in CLIENTS if lease_of(other) not in world.leases and other not in world.cut_off
        ]
        for ms in (0, left_ms // 2, left_ms - left_ms // 2):
            world.pass_time(ms)
            world.check_beliefs()
            if others:
                self.reserve(others[0], max(1, free_mb + holder.vram_mb), 2)

    @rule(how=st.sampled_from(["replicate", "fail over", "restart empty"]))
    def redis_is_in_trouble(self, how: str) -> None:
        if how == "replicate":
            self.world.copy_to_replica()
        elif how == "fail over" and self.world.replica is not None:
            self.world.fail_over()
        elif how == "restart empty":
            self.world.restart_empty()

    @anybody_holds
    @rule(number=numbers, how=st.sampled_from(["restart empty", "fail over"]), is_smaller=st.booleans())
    def redis_restarts_and_others_come_first(self, number: int, how: str, is_smaller: bool) -> None:
        """Something else comes before the first heartbeat that Redis hears after its restart.

        The size is set by hand, or a holder reserves. After the heartbeats, a call comes with an
        old fence.
        """
        self.redis_is_in_trouble(how)
        if is_smaller:
            self.world.set_capacity(12)
        client = self._holder(number)
        believer = self.world.believers[client]
        self.world.claims[lease_of(client)] = (believer.vram_mb, believer.priority)
        self.world.reserve(client)
        if self.world.believers:
            self.time_passes_with_heartbeats(0)
        self.call_with_a_wrong_fence("a1", 0, is_next=False)

    @precondition(lambda self: self.world.reference.epoch and self.world.would_admit_former_holders())
    @rule(client=clients, more_ms=st.sampled_from([0, 0, 1]))
    def a_former_holder_comes_too_late(self, client: str, more_ms: int) -> None:
        epoch = self.world.reference.epoch
        self.world.status()  # where another server answers, the grace begins only now
        self.world.pass_time(max(0, epoch["grace_until_ms"] - self.world.now_ms) + more_ms)
        if client in self.world.fences:
            self.world.renew(client, self.world.fences[client][-1])

    @rule(step=st.sampled_from(["all", "begin", "read", "tell"]), foreign_mb=st.sampled_from([0, 1, 5, 9]))
    def the_gpu_is_measured(self, step: str, foreign_mb: int) -> None:
        if step in ("all", "begin"):
            self.world.foreign_mb = foreign_mb
            self.measuring_since_ms = self.world.now_ms
        if step in ("all", "read") and self.measuring_since_ms is not None:
            self.reading = self.world.read_gpu()
        if step in ("all", "tell") and self.reading is not None and self.measuring_since_ms is not None:
            self.world.tell_measurement(self.reading, self.measuring_since_ms)
            self.reading = self.measuring_since_ms = None

    @invariant()
    def beliefs_hold(self) -> None:
        self.world.check_beliefs()

    def _holder(self, number: int) -> str:
        holders = sorted(self.world.believers)
        return holders[number % len(holders)]

    def _process_of(self, lease_id: str, number: int) -> str:
        processes = [client for client in CLIENTS if lease_of(client) == lease_id]
        return processes[number % len(processes)]

    def _commit(self, client: str, in_part: bool) -> None:
        believer = self.world.believers[client]
        if not believer.is_unloaded:
            believer.load(in_part)
            self.world.commit(client, believer.fence)
