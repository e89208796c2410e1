"""The ledger in plain Python, as `docs/model-boss.md` describes it.

The scripts are compared with it. It is written from that text and not from the Lua. So if the two
differ, one of them is wrong.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
Reply = list[Any]


@dataclass
class ReferenceLedger:
    """The ledger of one GPU; tests set `now_ms` and `server`, and replies are the scripts' own."""

    now_ms: int
    server: str
    capacity: dict[str, int] = field(default_factory=dict)
    leases: dict[str, Record] = field(default_factory=dict)
    tickets: dict[str, int] = field(default_factory=dict)  # lease id -> ticket, for those who wait
    epoch: dict[str, Any] = field(default_factory=dict)

    def lost_memory(self, server: str) -> ReferenceLedger:
        """Return a ledger that has restarted with nothing."""
        return ReferenceLedger(self.now_ms, server)

    def copied(self) -> ReferenceLedger:
        return copy.deepcopy(self)

    def queue(self) -> list[str]:
        """Return the waiters: the more urgent first, then those who came first."""
        return sorted(self.tickets, key=lambda i: (-self.leases[i]["priority"], self.tickets[i]))

    def held_mb(self) -> int:
        return sum(lease["vram_mb"] for lease in self._holders().values())

    def reserve(  # noqa: C901, PLR0911 - one for each answer
        self,
        lease_id: str,
        owner: str,
        holder: str,
        model: str,
        vram_mb: int,
        priority: int,
        ttl_ms: int,
    ) -> Reply:
        self._sweep()
        self._open_epoch(ttl_ms)
        lease = self.leases.get(lease_id)
        if lease and lease["owner"] != owner:
            return ["conflict"]
        if lease and not holder and (lease["vram_mb"], lease["priority"]) != (vram_mb, priority):
            return ["conflict"]
        if lease:  # of several processes, the first said how much
            vram_mb, priority = lease["vram_mb"], lease["priority"]
        if lease and self._is_held_by_another(lease, holder):
            lease["wanted_until_ms"] = self.now_ms + min(ttl_ms, self.epoch["ttl_ms"])
            return ["held", lease["holder"], lease["fence"]]
        if not self._same_ttl(ttl_ms):
            return ["ttl_mismatch", self.epoch["ttl_ms"]]
        total_mb, margin_mb = self.capacity.get("total_mb"), self.capacity.get("margin_mb", 0)
        if lease and lease["phase"] != "waiting":
            return self._ask_again(lease, holder, model, ttl_ms)
        if total_mb is None and not self._in_grace():
            self._drop(lease_id)
            return ["unknown_capacity"]
        if total_mb is not None and vram_mb > total_mb - margin_mb:
            self._drop(lease_id)
            return ["too_large", total_mb - margin_mb]
        if not lease:
            self.epoch["ticket"] = self.epoch.get("ticket", 0) + 1
            self.tickets[lease_id] = self.epoch["ticket"]
            lease = {"owner": owner, "vram_mb": vram_mb, "priority": priority, "phase": "waiting", "fence": 0}
            self.leases[lease_id] = lease
        lease |= {"model": model, "idle_since_ms": self.now_ms, "expires_at_ms": self.now_ms + ttl_ms}
        position = self.queue().index(lease_id)
        if self._in_grace():
            return ["waiting", position, "grace"]
        if position > 0:
            return ["waiting", position, "queue"]
        assert total_mb is not None
        needed_mb = self.held_mb() + vram_mb - (total_mb - margin_mb)
        if needed_mb + self.foreign_mb() > 0:
            self._ask_to_yield(lease_id, priority, needed_mb + self._foreign_at_best_mb())
            return ["waiting", 0, "memory"]
        del self.tickets[lease_id]
        self.epoch["fence"] += 1
        lease |= {"phase": "reserved", "fence": self.epoch["fence"], "holder": holder}
        self._extend(lease, ttl_ms)
        return ["granted", lease["fence"], "reserved", "", vram_mb, total_mb, margin_mb]

    def _is_held_by_another(self, lease: Record, holder: str) -> bool:
        """Tell whether another process holds this lease and was heard of lately."""
        if lease["phase"] == "waiting" or lease["holder"] == holder:
            return False
        return self._in_grace() or bool(self.now_ms < lease["follow_at_ms"])

    def _ask_again(self, lease: Record, holder: str, model: str, ttl_ms: int) -> Reply:
        """Ask for a lease that is held by this process, or by one that is heard of no more."""
        if self._in_grace():
            return ["waiting", 0, "grace"]
        if lease["holder"] != holder:
            self.epoch["fence"] += 1
            lease |= {"holder": holder, "model": model, "fence": self.epoch["fence"]}
            lease.pop("wanted_until_ms", None)
        self._extend(lease, ttl_ms)
        total_mb, margin_mb = self.capacity.get("total_mb", 0), self.capacity.get("margin_mb", 0)
        held = [lease["phase"], lease.get("used_mb", ""), lease["vram_mb"]]
        return ["granted", lease["fence"], *held, total_mb, margin_mb]

    def commit(self, lease_id: str, owner: str, fence: int, used_mb: int | str) -> Reply:
        lease = self._held(lease_id, owner, fence)
        if lease is None:
            return ["lost"]
        used_mb = lease["vram_mb"] if used_mb == "" else used_mb
        if lease.get("used_mb") != used_mb:
            lease |= {"used_mb": used_mb, "loaded_at_ms": self.now_ms}
        lease["idle_since_ms"] = self.now_ms
        if lease["phase"] == "reserved":
            lease["phase"] = "active"
        return [_answer(lease)]

    def renew(
        self,
        lease_id: str,
        owner: str,
        holder: str,
        fence: int,
        ttl_ms: int,
        in_use: int,
        memory: Record,
        capacity: Reply,
        needs_mb: int,
    ) -> Reply:
        """Renew a lease.

        `memory` is what the holder remembers of its lease. `capacity` is total and margin, or two
        ''.
        """
        self._sweep()
        self._open_epoch(ttl_ms)
        if not self._same_ttl(ttl_ms):
            return ["ttl_mismatch", self.epoch["ttl_ms"]]
        lease = self._held(lease_id, owner, fence)
        if lease is None:
            lease = self._admit_again(lease_id, owner, holder, fence, memory, capacity)
        if lease is None:
            return ["lost"]
        if lease["vram_mb"] == memory["vram_mb"]:
            lease.pop("inherited_mb", None)
        known_mb = memory["vram_mb"] + lease.get("inherited_mb", 0)
        if self._in_grace() and known_mb < lease["vram_mb"]:
            self._set_size(lease, known_mb)
        if lease["vram_mb"] == memory["vram_mb"]:
            self._resize(lease, needs_mb)
        if in_use:
            lease["idle_since_ms"] = self.now_ms
        self._extend(lease, ttl_ms)
        wanted_ms = max(0, lease.get("wanted_until_ms", 0) - self.now_ms)
        return [_answer(lease), lease["phase"], lease.get("used_mb", ""), wanted_ms, lease["vram_mb"]]

    def _resize(self, lease: Record, needs_mb: int) -> None:
        more_mb = needs_mb - lease["vram_mb"]
        room_mb = self.capacity.get("total_mb", 0) - self.capacity.get("margin_mb", 0)
        if more_mb > 0 and (self._in_grace() or self.held_mb() + more_mb > room_mb):
            return
        if more_mb:
            self._set_size(lease, needs_mb)

    def _set_size(self, lease: Record, size_mb: int) -> None:
        if "used_mb" in lease:
            used_mb = max(0, lease["used_mb"] + size_mb - lease["vram_mb"])
            lease |= {"used_mb": used_mb, "loaded_at_ms": self.now_ms}
        lease["vram_mb"] = size_mb

    def hand_over(self, lease_id: str, owner: str, fence: int) -> Reply:
        lease = self._held(lease_id, owner, fence)
        if lease is None:
            return ["lost"]
        lease["follow_at_ms"] = self.now_ms
        return ["ok"]

    def release(self, lease_id: str, owner: str, fence: int, heir: str = "") -> Reply:
        self._sweep()
        lease = self.leases.get(lease_id)  # a waiter's fence is 0
        if lease is None or (lease["owner"], lease["fence"]) != (owner, fence):
            return ["lost"]
        other = self._holders().get(heir)
        if fence and other and heir != lease_id and other["owner"] == owner:
            other["vram_mb"] += lease["vram_mb"]
            other["inherited_mb"] = other.get("inherited_mb", 0) + lease["vram_mb"]
            if "used_mb" in other:
                used_mb = other["used_mb"] + lease.get("used_mb", 0)
                other |= {"used_mb": used_mb, "loaded_at_ms": self.now_ms}
        self._drop(lease_id)
        return ["ok"]

    def status(self) -> Reply:
        self._sweep()
        self._open_epoch(None)
        return ["table", self.now_ms]

    def set_capacity(
        self, total_mb: int, margin_mb: int, measured: int, used_mb: int | str, measured_at_ms: int | str
    ) -> Reply:
        """Do as `capacity.lua`, whose name is a field here."""
        if not measured or "total_mb" not in self.capacity:
            self.capacity |= {"total_mb": total_mb, "margin_mb": margin_mb}
        since_ms = self.capacity.get("measured_at_ms", 0)
        if isinstance(used_mb, int) and isinstance(measured_at_ms, int) and measured_at_ms >= since_ms:
            self.capacity |= {"used_mb": used_mb, "measured_at_ms": measured_at_ms}
        self._sweep()
        return ["ok", self.capacity["total_mb"], self.capacity["margin_mb"]]

    def foreign_mb(self) -> int:
        """Return the foreign memory: what is in use, less the ledger's own.

        A lease counts as the ledger's own only if it was loaded when the measurement began.
        """
        measured_at_ms = self._measured_at_ms()
        if measured_at_ms is None:
            return 0
        own_mb = sum(
            min(lease["used_mb"], lease["vram_mb"])
            for lease in self._holders().values()
            if lease.get("loaded_at_ms", measured_at_ms) < measured_at_ms
        )
        return int(max(0, self.capacity["used_mb"] - own_mb))

    def _foreign_at_best_mb(self) -> int:
        if self._measured_at_ms() is None:
            return 0
        return max(0, self.capacity["used_mb"] - self.held_mb())

    def _measured_at_ms(self) -> int | None:
        measured_at_ms = self.capacity.get("measured_at_ms")
        if measured_at_ms is None or self.now_ms >= measured_at_ms + self.epoch["ttl_ms"]:
            return None
        return measured_at_ms

    def _ask_to_yield(self, claimed_id: str, priority: int, missing_mb: int) -> None:
        holders = self._holders()
        missing_mb -= sum(lease["vram_mb"] for lease in holders.values() if lease["phase"] == "yielding")
        ranked = []
        for lease_id, lease in holders.items():
            if lease["phase"] == "yielding" or claimed_id.startswith(f"{lease_id}/"):
                continue
            unused_ms = self.now_ms - lease["idle_since_ms"]
            is_idle = lease["phase"] == "active" and unused_ms >= self.epoch["ttl_ms"]
            if is_idle or lease["priority"] < priority:
                ranked.append((not is_idle, lease["priority"], -lease["vram_mb"], lease_id))
        asked: list[str] = []
        for *_, lease_id in sorted(ranked):
            if sum(self.leases[i]["vram_mb"] for i in asked) < missing_mb:
                asked.append(lease_id)
        if sum(self.leases[i]["vram_mb"] for i in asked) < missing_mb:
            return
        for lease_id in reversed(list(asked)):
            without = [i for i in asked if i != lease_id]
            if sum(self.leases[i]["vram_mb"] for i in without) >= missing_mb:
                asked = without
        for lease_id in asked:
            self.leases[lease_id]["phase"] = "yielding"

    def _admit_again(
        self, lease_id: str, owner: str, holder: str, fence: int, memory: Record, capacity: Reply
    ) -> Record | None:
        if not self._in_grace() or fence > self.epoch["first_fence"]:
            return None
        known = self.leases.get(lease_id)
        if known and (known["owner"] != owner or known["fence"] > fence):
            return None
        others_mb = sum(lease["vram_mb"] for i, lease in self._holders().items() if i != lease_id)
        remembered = {"total_mb": capacity[0], "margin_mb": capacity[1]} if capacity[0] != "" else {}
        ours = self.capacity if "total_mb" in self.capacity else remembered
        if ours and others_mb + memory["vram_mb"] > ours["total_mb"] - ours["margin_mb"]:
            return None
        self.capacity |= {name: ours[name] for name in ("total_mb", "margin_mb") if name in ours}
        self._drop(lease_id)
        lease: Record = {name: memory[name] for name in ("model", "vram_mb", "priority", "phase")}
        lease |= {"owner": owner, "holder": holder, "fence": fence, "idle_since_ms": self.now_ms}
        if memory["used_mb"] != "":
            lease |= {"used_mb": memory["used_mb"], "loaded_at_ms": self.now_ms}
        self.leases[lease_id] = lease
        return lease

    def _held(self, lease_id: str, owner: str, fence: int) -> Record | None:
        self._sweep()
        lease = self._holders().get(lease_id)
        if lease is None or lease["owner"] != owner or lease["fence"] != fence:
            return None
        return lease

    def _holders(self) -> dict[str, Record]:
        return {i: lease for i, lease in self.leases.items() if lease["phase"] != "waiting"}

    def _extend(self, lease: Record, ttl_ms: int) -> None:
        """Extend a lease; another may follow after two missed heartbeats.

        There is a heartbeat in every third of a time to live.
        """
        lease["expires_at_ms"] = self.now_ms + ttl_ms
        lease["follow_at_ms"] = self.now_ms + -(-2 * ttl_ms // 3)

    def _drop(self, lease_id: str) -> None:
        self.leases.pop(lease_id, None)
        self.tickets.pop(lease_id, None)

    def _sweep(self) -> None:
        for lease_id in [i for i, lease in self.leases.items() if lease["expires_at_ms"] <= self.now_ms]:
            self._drop(lease_id)

    def _in_grace(self) -> bool:
        return bool(self.now_ms < self.epoch["grace_until_ms"])

    def _same_ttl(self, ttl_ms: int) -> bool:
        if self.epoch["ttl_ms"] != ttl_ms and not self.leases and not self._in_grace():
            self.epoch["ttl_ms"] = ttl_ms
        return bool(self.epoch["ttl_ms"] == ttl_ms)

    def _open_epoch(self, ttl_ms: int | None) -> None:
        ttl_ms = self.epoch.get("ttl_ms", ttl_ms)
        if self.epoch.get("server") == self.server or ttl_ms is None:
            return
        fence = max(self.epoch.get("fence", 0), self.now_ms)
        self.epoch |= {
            "server": self.server,
            "started_at_ms": self.now_ms,
            "grace_until_ms": self.now_ms + ttl_ms,
            "first_fence": fence,
            "fence": fence,
            "ttl_ms": ttl_ms,
        }


def _answer(lease: Record) -> str:
    return "yield" if lease["phase"] == "yielding" else "ok"
