"""Measure the service beside upstream, beside the network alone, and beside a plain Triton model.

    make bench                              at full size, with random weights: about an hour
    make bench BENCH="--model demo"         the demonstration model, without upstream: minutes
    make bench BENCH="--write"              and put tables and plots into docs/performance.md

All ways score the same JPEG files, once a round, in turn; what counts is the ratio within a round.
The median is printed, and the quarters around it.
"""

from __future__ import annotations

import argparse
import os
import platform
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import growth, report
from bench.served import PROMPT, Subject, demonstration, full_size, running
from bench.spread import interleaved, quarters, ratio
from bench.ways import NETWORK_ALONE, REST, ways
from reward.cpus import available_cpus
from tests.parity.reference import Job, waiting
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.growth import Table

PAGE: Final = CHECKOUT / "docs" / "performance.md"
UPSTREAM: Final = "upstream `inference_rank`"


def main() -> None:
    """Measure what was asked for, and print it as Markdown."""
    options = _parser().parse_args()
    directory = options.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    is_demo = options.model == "demo"
    subject = demonstration(directory) if is_demo else full_size(directory, options.precision, options.beside)
    machine = f"{platform.machine()}, {available_cpus()} CPUs, load {os.getloadavg()[0]:.1f} at the start"
    heading = f"{subject.name}; {machine}; {datetime.now(UTC):%Y-%m-%d}; {options.rounds} rounds"
    print(f"{heading}\n", flush=True)

    def tell(name: str, text: str) -> None:
        print(f"{name}\n\n{text}\n", flush=True)
        if options.write and not report.put(PAGE, f"{options.model}, {name}", f"{heading}\n\n{text}"):
            print(f"not written, since {PAGE.name} has no place for it: {name}")

    def tell_growth(name: str, first: str, table: Table) -> None:
        text = report.markdown(first, table)
        if options.write and name in {"batch", "size", "callers"}:
            path = PAGE.with_name(f"performance-{options.model}-{name}.svg")
            title = f"Milliseconds an image by {first}: {subject.name}"
            report.plot(path, title, first, "ms an image", table)
            text = f"![{title}]({path.name})\n\n{text}"
        tell(f"by {name}", text)

    with running(subject, plain=True) as stack:
        is_upstream_asked = subject.checkpoint is not None and not options.no_upstream
        with _upstream(subject) if is_upstream_asked else nullcontext() as rank:
            for count in (1, growth.REST_ROWS):
                files = growth.pictures(1024, count)
                works: dict[str, Callable[[], object]] = (
                    {} if rank is None else {UPSTREAM: partial(rank, count)}
                )
                works |= {
                    name: partial(way, files)
                    for name, way in ways(subject, stack, files).items()
                    if count <= subject.max_rows or name.startswith((NETWORK_ALONE, REST))
                }
                tell(f"ways, {count} at once", _ways(interleaved(works, rounds=options.rounds), count))
        if options.short:
            return
        rounds = options.rounds
        tell_growth("batch", "rows", growth.with_batch(subject, stack, rounds=rounds))
        tell_growth("size", "pixels a side", growth.with_size(subject, stack, rounds=rounds))
        tell_growth("stages", "door", growth.by_stage(subject, stack, images=options.images))
        tell_growth("callers", "callers", growth.with_callers(subject, stack, rounds=rounds))
    tell_growth("versions", "versions", growth.with_versions(subject, rounds=rounds))


@contextmanager
def _upstream(subject: Subject) -> Iterator[Callable[[int], None]]:
    """Have upstream ready to rank the first files, in a process of its own; tell it how many."""
    files = growth.pictures(1024, growth.REST_ROWS)
    paths = [subject.directory / f"upstream-{index}.jpg" for index in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    ranks = [(0, list(range(count))) for count in range(len(files) + 1)]
    job = Job(
        [PROMPT], [str(path) for path in paths], checkpoint=str(subject.checkpoint), ranks=ranks, waits=True
    )
    with waiting(job, subject.directory) as rank:
        yield rank


def _ways(seconds: dict[str, list[float]], count: int) -> str:
    lines = ["| way | seconds an image | times as long as the network alone | as REST |", "|---|---|---|---|"]
    for name, times in seconds.items():
        low, middle, high = (one / count for one in quarters(times))
        ratios = " | ".join(ratio(seconds[other], times) for other in (NETWORK_ALONE, REST))
        lines.append(f"| {name} | {middle:.3g} ({low:.3g} to {high:.3g}) | {ratios} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["full", "demo"], default="full")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32", help="of the full size")
    parser.add_argument("--beside", choices=["fp32", "int8"], help="a second version, asked through REST")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=100, help="for the processor time by stage")
    parser.add_argument("--short", action="store_true", help="only the ways, nothing about growth")
    parser.add_argument("--no-upstream", action="store_true", help="leave out the slowest of the ways")
    parser.add_argument("--write", action="store_true", help="put tables and plots into docs/performance.md")
    parser.add_argument(
        "--directory", type=Path, default=Path(".cache/bench"), help="kept between runs: up to 6 GB"
    )
    return parser


if __name__ == "__main__":
    main()
