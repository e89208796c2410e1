"""What was measured, as Markdown tables and as plots; both go into docs/performance.md."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bench.growth import Table


def markdown(first: str, table: Table) -> str:
    """Lay out a table: the median, and the quarters where they differ."""
    columns = list(dict.fromkeys(name for cells in table.values() for name in cells))
    lines = [f"| {first} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row, cells in table.items():
        texts = [_cell(cells[name]) if name in cells else "" for name in columns]
        lines.append(f"| {row} | {' | '.join(texts)} |")
    return "\n".join(lines)


def plot(path: Path, title: str, first: str, unit: str, table: Table) -> None:
    """Draw a table's columns over its rows, as SVG; the bars are the quarters."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        names = dict.fromkeys(name for cells in table.values() for name in cells)
        for name in names:
            rows = [row for row in table if name in table[row]]
            low, middle, high = zip(*(table[row][name] for row in rows), strict=True)
            below = [mid - one for mid, one in zip(middle, low, strict=True)]
            above = [one - mid for mid, one in zip(middle, high, strict=True)]
            axes.errorbar(rows, middle, yerr=(below, above), marker="o", capsize=3, label=name)
        axes.set(title=title, xlabel=first, ylabel=unit, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def put(page: Path, name: str, text: str) -> bool:
    """Replace what stands between the marks of this name on a page; return False without marks."""
    begin, end = f"<!-- bench: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    content = page.read_text()
    if not pattern.search(content):
        return False
    page.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", content))
    return True


def _cell(found: tuple[float, float, float]) -> str:
    low, middle, high = (_number(value) for value in found)
    return middle if low == high else f"{middle} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
