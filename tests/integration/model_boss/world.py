"""Clients that believe what they were told, and what must hold for them.

A client uses its memory from the grant until it releases, crashes, is told `lost`, or its own clock
(`believer.py`) says that its lease is over. With `fail_open` it goes on even then.

Clients with the same letter are processes that ask for one lease. One of them holds it, and what it
has loaded stays loaded for the process that follows it.

The invariants are checked against what the clients believe. Besides, every reply and all keys are
compared with `reference.py`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from model_boss.protocol import (
    CAPACITY,
    COMMIT,
    HAND_OVER,
    RELEASE,
    RENEW,
    RESERVE,
    STATUS,
)
from tests.integration.model_boss.believer import TEMPERS, Believer
from tests.integration.model_boss.reference import ReferenceLedger

if TYPE_CHECKING:
    from model_boss.protocol import Script
    from tests.integration.model_boss.turned_clock import State, TurnedLedger

TTL_MS: Final = 1000
BEGAN_AT_MS: Final = 1_700_000_000_000
ROOM_MB: Final = 18  # of 20, with a margin of 2
CLIENTS: Final = ("a1", "a2", "a3", "b1", "b2", "c", "d", "e")
"""The letter is the lease's id; a number tells the processes of one lease apart."""

OWNER: Final = "o"
"""The owner of all leases: a lease may be inherited within one owner."""

Reply = list[Any]


def lease_of(client: str) -> str:
    return client[0]


def holder_of(client: str) -> str:
    """Return the name of the process, if several processes ask for its lease."""
    return client if client[1:] else ""


class World:
    """One GPU, its ledger, its clients, and a process that uses memory without asking."""

    def __init__(self, ledger: TurnedLedger) -> None:
        ledger.clear()
        ledger.now_ms, ledger.server = BEGAN_AT_MS, "server-0"
        self.ledger = ledger
        self.reference = ReferenceLedger(BEGAN_AT_MS, "server-0")
        self.replica: tuple[ReferenceLedger, dict[str, int], int] | None = None
        self.ttl_ms = TTL_MS
        self.believers: dict[str, Believer] = {}
        self.left: dict[str, Believer] = {}
        """What the holder of a lease has left loaded for the process that follows it."""
        self.tempers = dict.fromkeys(CLIENTS, TEMPERS[0])
        self.cut_off: set[str] = set()
        """Clients that do not reach Redis."""
        self.claims: dict[str, tuple[int, int]] = {}
        self.fences: dict[str, list[int]] = {}
        self.foreign_mb = 0
        self.leases: dict[str, dict[str, Any]] = {}  # as the keys hold them
        self._servers = 1
        self._no_grant_before_ms = BEGAN_AT_MS + TTL_MS
        self._last_fence = 0
        self._spoken_for_until_ms: dict[str, int] = {}
        self._arrivals: dict[str, int] = {}
        self._arrived = 0
        self._used_before_mb = 0
        self._measured_foreign_mb = 0
        self._state: State | None = None
        self.set_capacity(20)

    # What clients do.

    def reserve(self, client: str, owner: str | None = None) -> Reply:
        if client in self.cut_off:
            return ["unreached"]
        lease_id = lease_of(client)
        if unprotected := self._unprotected(client):
            self.claims[lease_id] = (unprotected.vram_mb, unprotected.priority)
        vram_mb, priority = self.claims.setdefault(lease_id, (4, 1))
        self.reference._sweep()
        # A waiter that expired since the last call, and asks again, stands at the end of the queue.
        self._arrivals = {i: at for i, at in self._arrivals.items() if i in self.reference.tickets}
        held_before = dict(self.leases[lease_id]) if lease_id in self.reference._holders() else None
        believed_before = client in self.believers
        arguments = (lease_id, owner or OWNER, holder_of(client), "model", vram_mb, priority, self.ttl_ms)
        reply = self._call(RESERVE, self.reference.reserve(*arguments), *arguments)
        if reply[0] == "granted" or (reply[0] == "waiting" and held_before is None):
            self._spoken_for_until_ms[lease_id] = self.now_ms + self.ttl_ms
        if reply[0] == "granted":
            self._believe(client, vram_mb, priority, reply)
            self._check_memory(is_new=held_before is None)
            if held_before is None:
                self._check_grant(lease_id, priority, reply[1])
            elif held_before["fence"] != reply[1]:
                self._check_hand_over(lease_id, held_before)
        self._check_keys()
        is_loaded = client in self.believers and self.believers[client].loaded_mb
        if reply[0] == "granted" and not believed_before and reply[2] != "reserved" and not is_loaded:
            self.release(client, reply[1])  # it comes back after a crash and finds nothing loaded
        return reply

    def commit(self, client: str, fence: int) -> None:
        if client in self.cut_off:
            return
        believer = self._holder(client, fence)
        leased_mb = self.leases.get(lease_of(client), {}).get("vram_mb")  # more, if it has inherited
        used_mb: int | str = ""
        if believer and not believer.loaded_mb == believer.vram_mb == leased_mb:
            used_mb = believer.loaded_mb
        expected = self.reference.commit(lease_of(client), OWNER, fence, used_mb)
        reply = self._fenced(COMMIT, expected, client, fence, used_mb)
        if believer is not None:
            believer.committed_mb = believer.loaded_mb
            believer.phase = {"yield": "yielding", "ok": "active"}.get(reply[0], believer.phase)

    def renew(
        self,
        client: str,
        fence: int,
        there_ms: int = 0,
        back_ms: int = 0,
        *,
        in_use: bool = False,
        more_mb: int = 0,
    ) -> None:
        """Renew a lease; the call takes time there and back.

        A client that is unprotected has nothing to renew, so it asks anew.
        """
        if client in self.cut_off:
            return
        lease_id, holder = lease_of(client), self._holder(client, fence)
        known_fence = self.leases.get(lease_id, {}).get("fence", 0)
        if holder is None and holder_of(client) and fence >= known_fence:
            return  # it holds nothing by its own clock, and others stand by: it asks anew
        if holder is not None and holder.is_unprotected:
            self.reserve(client)
            return
        vram_mb, priority = self.claims.setdefault(lease_id, (4, 1))
        believer = holder or self._believer(client, fence, "reserved", ("", ""))
        memory: dict[str, int | str] = {
            "model": "model",
            "vram_mb": vram_mb if holder is None else holder.vram_mb,
            "priority": priority if holder is None else holder.priority,
            "phase": believer.phase,
            "used_mb": believer.committed_mb,
        }
        needs_mb = max(1, int(memory["vram_mb"]) + more_mb)
        sent_at_ms = self.now_ms
        self.pass_time(there_ms)
        capacity, before = believer.capacity, self.leases
        expected = self.reference.renew(
            lease_id,
            OWNER,
            holder_of(client),
            fence,
            self.ttl_ms,
            in_use,
            memory,
            list(capacity),
            needs_mb,
        )
        terms = (self.ttl_ms, int(in_use), *memory.values(), *capacity, needs_mb)
        reply = self._fenced(RENEW, expected, client, fence, *terms)
        if reply[0] in ("ok", "yield"):
            self._spoken_for_until_ms[lease_id] = self.now_ms + self.ttl_ms
            self._check_memory(is_new=reply[4] > before.get(lease_id, {"vram_mb": 0})["vram_mb"])
        self._check_keys()
        self.pass_time(back_ms)
        if holder is not None and (self.believers.get(client) is not holder or holder.is_unprotected):
            return  # its own clock was first
        if reply[0] in ("ok", "yield"):
            knew = before.get(lease_id, {}).get("vram_mb") == memory["vram_mb"]
            grown_mb = max(0, reply[4] - believer.vram_mb) if knew else 0
            believer.resize(reply[1], reply[2], reply[4], grown_mb)
            self.claims[lease_id] = (believer.vram_mb, self.claims[lease_id][1])
            believer.hold(self.ttl_ms, sent_at_ms, lambda: self.now_ms)
            self.believers[client] = believer
        elif reply[0] == "lost" and holder is not None:
            del self.believers[client]

    def hand_over(self, client: str, fence: int) -> None:
        if self._holder(client, fence):
            self.leave(client)
        if client in self.cut_off:
            return
        expected = self.reference.hand_over(lease_of(client), OWNER, fence)
        self._fenced(HAND_OVER, expected, client, fence)

    def release(self, client: str, fence: int, heir: str = "") -> None:
        """Give back the memory, or give it to another lease; its next renewal tells its holder."""
        believer = self.believers.pop(client) if self._holder(client, fence) else None
        if client in self.cut_off:
            return
        expected = self.reference.release(lease_of(client), OWNER, fence, heir)
        reply = self._fenced(RELEASE, expected, client, fence, heir)
        if believer is not None and reply[0] == "ok" and heir in self.leases:
            self._inherit(heir, believer.loaded_mb)

    def _inherit(self, heir: str, loaded_mb: int) -> None:
        """Note that what is loaded is the heir's from now on, which hears of it later."""
        fence = self.leases[heir]["fence"]
        heirs = [held for i, held in self.believers.items() if (lease_of(i), held.fence) == (heir, fence)]
        for held in heirs or [left for i, left in self.left.items() if i == heir]:
            if not held.is_unloaded:
                held.loaded_mb += loaded_mb

    def cancel(self, client: str, owner: str) -> None:
        if client in self.cut_off:
            return
        self._call(
            RELEASE, self.reference.release(lease_of(client), owner, 0), lease_of(client), owner, 0, ""
        )

    def leave(self, client: str) -> None:
        """Say nothing more; if others stand by, what is loaded is theirs."""
        believer = self.believers.pop(client)
        if believer.others_stand_by:
            self.left[lease_of(client)] = believer

    def status(self) -> None:
        _, _, ledger, *leases = self._call(STATUS, self.reference.status())
        facts, reference = json.loads(ledger), self.reference
        known = {**reference.capacity, **reference.epoch, "held_mb": reference.held_mb()}
        known["foreign_mb"] = reference.foreign_mb() if reference.epoch else 0
        assert facts == {name: value for name, value in known.items() if name not in ("server", "ticket")}
        rows = {lease.pop("lease_id"): lease for lease in map(json.loads, leases)}
        positions = {lease_id: {"position": place} for place, lease_id in enumerate(reference.queue())}
        assert rows == {i: {**lease, **positions.get(i, {})} for i, lease in reference.leases.items()}

    def set_capacity(self, total_mb: int) -> None:
        arguments = (total_mb, 2, 0, "", "")
        self._call(CAPACITY, self.reference.set_capacity(*arguments), *arguments)

    def read_gpu(self) -> tuple[int, int]:
        """Return the memory in use, and how much of it is not the ledger's."""
        loaded_mb = sum(held.loaded_mb for held in (*self.believers.values(), *self.left.values()))
        return self.foreign_mb + loaded_mb, self.foreign_mb

    def tell_measurement(self, reading: tuple[int, int], since_ms: int) -> None:
        used_mb, foreign_mb = reading
        if since_ms >= self.reference.capacity.get("measured_at_ms", 0):
            self._measured_foreign_mb = foreign_mb
        arguments = (20, 2, 1, used_mb, since_ms)
        self._call(CAPACITY, self.reference.set_capacity(*arguments), *arguments)

    # What happens to them.

    @property
    def now_ms(self) -> int:
        return self.ledger.now_ms

    def pass_time(self, ms: int) -> None:
        self.ledger.now_ms += ms
        self.reference.now_ms = self.now_ms
        for client in [i for i, held in self.believers.items() if not held.goes_on(self.now_ms)]:
            self.leave(client)
        self._forget_what_nobody_followed()
        self._used_before_mb = self._believed_mb()

    def restart_empty(self) -> None:
        self._new_server()
        self.ledger.clear()
        self.reference = self.reference.lost_memory(self.ledger.server)
        self._arrivals, self.leases = {}, {}
        self._forget_what_nobody_followed()

    def copy_to_replica(self) -> None:
        self.replica = (self.reference.copied(), dict(self._arrivals), self._measured_foreign_mb)

    def fail_over(self) -> None:
        """Go on with what the replica had received."""
        assert self.replica is not None
        self._new_server()
        self.reference, self._arrivals, self._measured_foreign_mb = self.replica
        self.replica = None
        self.reference.now_ms, self.reference.server = self.now_ms, self.ledger.server
        self.ledger.restore(self.reference)
        self.leases = self.reference.copied().leases
        self._forget_what_nobody_followed()

    def would_admit_former_holders(self) -> bool:
        """Tell whether the server that answers next is in its grace or would begin one."""
        epoch = self.reference.epoch
        return epoch.get("server") != self.ledger.server or self.now_ms < epoch["grace_until_ms"]

    # What must hold.

    def check_beliefs(self) -> None:
        """Check that every client that uses memory under a lease has that lease.

        This must hold whether the client reaches Redis or not.
        """
        self._check_memory(is_new=False)
        self._check_one_holder()
        if self.now_ms < self._no_grant_before_ms:
            return  # what Redis forgot may still come back
        for client, held in self.believers.items():
            lease = self.leases.get(lease_of(client), {"fence": 0, "expires_at_ms": 0})
            is_live = lease["fence"] == held.fence and lease["expires_at_ms"] > self.now_ms
            assert is_live or held.is_unprotected, f"invariant 6: {client} goes on after its lease"

    def _check_one_holder(self) -> None:
        holding = [lease_of(client) for client, held in self.believers.items() if not held.is_unprotected]
        assert len(holding) == len(set(holding)), "holders: two processes believe to hold one lease"

    def _check_hand_over(self, lease_id: str, before: dict[str, Any]) -> None:
        now = self.leases[lease_id]
        assert now["fence"] > self._last_fence, "invariant 2: a fence that did not grow"
        self._last_fence = now["fence"]
        for name in ("vram_mb", "phase", "used_mb", "loaded_at_ms"):
            assert now.get(name) == before.get(name), "holders: its memory was free for a moment"

    def _check_grant(self, lease_id: str, priority: int, fence: int) -> None:
        assert fence > self._last_fence, "invariant 2: a fence that did not grow"
        self._last_fence = fence
        arrival = self._arrivals.pop(lease_id, self._arrived + 1)
        for other, arrived in self._arrivals.items():
            if other in self.reference.tickets:
                order = (-self.reference.leases[other]["priority"], arrived)
                assert order > (-priority, arrival), f"invariant 3: {lease_id} was granted before {other}"
        assert self.now_ms >= self._no_grant_before_ms, "invariant 5: granted in the grace"
        used_mb = self._believed_mb(but_unloaded=True)
        measured_at_ms = self.reference.capacity.get("measured_at_ms")
        if measured_at_ms is not None and self.now_ms - measured_at_ms < self.ttl_ms:
            used_mb += self._measured_foreign_mb
        assert used_mb <= self.room_mb(), "invariant 1: granted into foreign memory"

    def _check_memory(self, is_new: bool) -> None:
        used_mb = self._believed_mb()
        live = [lease for lease in self.leases.values() if lease["expires_at_ms"] > self.now_ms]
        held_mb = sum(lease["vram_mb"] for lease in live if lease["phase"] != "waiting")
        assert held_mb <= self.room_mb() or not is_new, "invariant 1: more granted than there is"
        # A capacity that is lowered by hand takes nothing away from a holder.
        bound_mb = max(self.room_mb(), self._used_before_mb, held_mb)
        assert used_mb <= bound_mb, "invariant 1: more in use than there is"
        self._used_before_mb = used_mb

    def _check_keys(self) -> None:
        state = self._state
        assert state is not None
        for lease_id, lease in state.leases.items():
            assert lease["expires_at_ms"] > self.now_ms, "invariant 4: an expired lease stayed"
            limit_ms = self._spoken_for_until_ms[lease_id]
            assert lease["expires_at_ms"] <= limit_ms, "invariant 4: it outlives its holder's last word"
        for lease_id in state.queue:
            if lease_id not in self._arrivals:
                self._arrived += 1
                self._arrivals[lease_id] = self._arrived
        self._arrivals = {i: arrived for i, arrived in self._arrivals.items() if i in state.queue}

    def _fenced(self, script: Script, expected: Reply, client: str, fence: int, *more: int | str) -> Reply:
        before, in_grace, lease_id = self.leases, self.would_admit_former_holders(), lease_of(client)
        names = (lease_id, OWNER, holder_of(client)) if script is RENEW else (lease_id, OWNER)
        reply = self._call(script, expected, *names, fence, *more)
        known_fence = before.get(lease_id, {}).get("fence", 0)
        if fence != known_fence and not (in_grace and script is RENEW):
            assert reply[0] == "lost", "invariant 2: an old fence was accepted"
            left = {i: lease for i, lease in before.items() if lease["expires_at_ms"] > self.now_ms}
            assert self.leases == left, "invariant 2: an old fence changed something"
        return reply

    def _call(self, script: Script, expected: Reply, *arguments: int | str) -> Reply:
        reply, state = self.ledger.call(script, *arguments)
        assert reply[: len(expected)] == expected
        assert script is STATUS or len(reply) == len(expected)
        assert state.leases == self.reference.leases
        assert state.queue == self.reference.queue()
        assert state.capacity == self.reference.capacity
        assert state.epoch == self.reference.epoch
        self._state, self.leases = state, state.leases
        if script not in (RESERVE, RENEW):  # for these the caller notes first who has spoken
            self._check_keys()
        return reply

    def _believe(self, client: str, vram_mb: int, priority: int, reply: Reply) -> None:
        _, fence, phase, used_mb, vram_mb, total_mb, margin_mb = reply
        believer = self._holder(client, fence)
        if believer is None:
            capacity = (total_mb, margin_mb) if total_mb else ("", "")
            believer = self._unprotected(client) or self._believer(client, fence, phase, capacity)
            believer.vram_mb, believer.priority = vram_mb, priority
            if left := self.left.pop(lease_of(client), None):
                believer.loaded_mb, believer.is_unloaded = left.loaded_mb, left.is_unloaded
                believer.committed_mb = used_mb
            self.believers[client] = believer
            self.fences.setdefault(client, []).append(fence)
        believer.phase, believer.fence = phase, fence
        believer.hold(self.ttl_ms, self.now_ms, lambda: self.now_ms)

    def _believer(
        self, client: str, fence: int, phase: str, capacity: tuple[int | str, int | str]
    ) -> Believer:
        vram_mb, priority = self.claims[lease_of(client)]
        temper, others_stand_by = self.tempers[client], bool(holder_of(client))
        return Believer(vram_mb, priority, fence, phase, capacity, temper, others_stand_by)

    def _forget_what_nobody_followed(self) -> None:
        live = {i for i, lease in self.leases.items() if lease["expires_at_ms"] > self.now_ms}
        self.left = {i: left for i, left in self.left.items() if i in live}

    def _holder(self, client: str, fence: int) -> Believer | None:
        believer = self.believers.get(client)
        return believer if believer and believer.fence == fence else None

    def _unprotected(self, client: str) -> Believer | None:
        believer = self.believers.get(client)
        return believer if believer and believer.is_unprotected else None

    def _believed_mb(self, *, but_unloaded: bool = False) -> int:
        """Add up the memory that clients use under a lease, as they believe."""
        return sum(
            held.vram_mb
            for held in (*self.believers.values(), *self.left.values())
            if not held.is_unprotected and not (but_unloaded and held.is_unloaded)
        )

    def _new_server(self) -> None:
        self.ledger.server = f"server-{self._servers}"
        self._servers += 1
        self._no_grant_before_ms = self.now_ms + self.ttl_ms

    def room_mb(self) -> int:
        capacity = self.reference.capacity
        return capacity["total_mb"] - capacity["margin_mb"] if "total_mb" in capacity else ROOM_MB
