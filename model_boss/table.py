"""One GPU's ledger as a table: its memory, its holders, its queue."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from model_boss.claim import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Row:
    """One lease, or one waiter."""

    lease_id: str
    owner: str
    model: str
    vram_mb: int
    priority: int
    phase: Phase
    fence: int
    expires_at_ms: int
    idle_since_ms: int
    position: int | None = None
    """The place in the queue, from 0; `None` for a lease that is held."""
    holder: str = ""
    """The process that holds it if several ask for one lease; otherwise empty."""


@dataclass(frozen=True)
class Table:
    """What the ledger knows about one GPU, else `None`; times are Redis's, in milliseconds."""

    gpu: str
    now_ms: int
    total_mb: int | None
    margin_mb: int | None
    held_mb: int
    foreign_mb: int
    """Memory that was measured to be in use without a lease."""
    grace_until_ms: int | None
    ttl_ms: int | None
    fence: int | None
    """The last fencing token that was handed out."""
    unreadable: int
    """How many entries were removed that no client of this ledger had written."""
    leases: tuple[Row, ...]
    """In the order of their grants."""
    waiters: tuple[Row, ...]
    """The first to be granted first."""

    @property
    def free_mb(self) -> int | None:
        """What the first of the queue may have now."""
        if self.total_mb is None or self.margin_mb is None:
            return None
        return self.total_mb - self.margin_mb - self.held_mb - self.foreign_mb

    @property
    def is_in_grace(self) -> bool:
        """Whether the ledger has just begun, and nothing new is granted yet."""
        return self.grace_until_ms is not None and self.now_ms < self.grace_until_ms


def read_table(gpu: str, now_ms: int, ledger: str, leases: Sequence[str]) -> Table:
    """Read a reply of `status.lua`."""
    facts: dict[str, Any] = json.loads(ledger)
    rows = [_row(json.loads(lease)) for lease in leases]
    held = sorted((row for row in rows if row.position is None), key=lambda row: row.fence)
    waiting = sorted((row for row in rows if row.position is not None), key=lambda row: row.position or 0)
    known = {name: facts.get(name) for name in ("total_mb", "margin_mb", "grace_until_ms", "ttl_ms", "fence")}
    return Table(
        gpu=gpu,
        now_ms=now_ms,
        held_mb=facts["held_mb"],
        foreign_mb=facts["foreign_mb"],
        unreadable=facts.get("unreadable", 0),
        leases=tuple(held),
        waiters=tuple(waiting),
        **known,
    )


def render(table: Table) -> str:
    """Lay the table out for a terminal."""
    if table.total_mb is None:
        memory = f"{table.held_mb} MiB held, capacity unknown"
    else:
        memory = (
            f"{table.total_mb} MiB, margin {table.margin_mb}, held {table.held_mb}, "
            f"foreign {table.foreign_mb}, free {table.free_mb}"
        )
    lines = [f"{table.gpu}: {memory}"]
    if table.is_in_grace and table.grace_until_ms is not None:
        lines.append(
            f"  just begun: nothing new is granted for {_seconds(table.grace_until_ms - table.now_ms)}"
        )
    if table.unreadable:
        lines.append(f"  {table.unreadable} entries that no client wrote were removed")
    rows: list[tuple[str, ...]] = [
        ("LEASE", "OWNER", "MODEL", "MIB", "PRIORITY", "PHASE", "FENCE", "EXPIRES", "UNUSED", "HOLDER")
    ]
    rows += [_cells(row, table.now_ms) for row in (*table.leases, *table.waiters)]
    if len(rows) == 1:
        return "\n".join([*lines, "  nobody holds a lease, nobody waits"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _row(lease: dict[str, Any]) -> Row:
    known = {field.name: lease[field.name] for field in fields(Row) if field.name in lease}
    return Row(**known | {"phase": Phase(lease["phase"])})


def _cells(row: Row, now_ms: int) -> tuple[str, ...]:
    waits = row.position is not None
    return (
        _shown(row.lease_id),
        _shown(row.owner),
        _shown(row.model),
        str(row.vram_mb),
        str(row.priority),
        f"waiting, {row.position}" if waits else row.phase,
        "-" if waits else str(row.fence),
        _seconds(row.expires_at_ms - now_ms),
        "-" if waits else _seconds(now_ms - row.idle_since_ms),
        _shown(row.holder) or "-",
    )


def _shown(name: str) -> str:
    """Remove from a stranger's text what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in name)


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.1f} s"
