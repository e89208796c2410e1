"""The command `aesthetic`: score and rank images, look at the service.

Exit status: 0 done; 1 no image reaches `--min-score`, or the service is not ready; 2 there is no
answer, or nothing could be scored.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imajin_aesthetic_client.batches import batches
from imajin_aesthetic_client.client import AestheticClient
from imajin_aesthetic_client.connection import DEFAULT_TIMEOUT_S, DEFAULT_URL
from imajin_aesthetic_client.errors import AestheticError
from imajin_aesthetic_client.inputs import Input, InputMissing, read_inputs
from imajin_aesthetic_client.report import write_report
from imajin_aesthetic_client.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imajin_aesthetic_client.answers import ErrorInfo, ModelInfo, RankedCandidate

BELOW: Final = 1
TROUBLE: Final = 2
_BAR_WIDTH: Final = 30


@dataclass(frozen=True)
class Table:
    """All images of one command, ranked."""

    prompt: str
    model: ModelInfo
    results: list[tuple[Input, RankedCandidate]]
    """Best first."""
    failed: list[tuple[Input, ErrorInfo]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; trouble is one line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        key = _key(options.api_key_file)
        with AestheticClient(options.url, api_key=key, timeout_s=options.timeout) as client:
            return int(options.run(client, options))
    except (AestheticError, InputMissing, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return TROUBLE
    except KeyboardInterrupt:
        return 130


def _score(client: AestheticClient, options: argparse.Namespace) -> int:
    inputs = read_inputs(options.images)
    table = _ask(client, options.prompt, inputs)
    if options.json:
        print(json.dumps(_plain(table), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(table, options.min_score)))
    if options.html is not None:
        write_report(options.html, table, options.min_score)
    if not table.results:
        return TROUBLE
    best = table.results[0][1].raw_score
    return BELOW if options.min_score is not None and best < options.min_score else 0


def _info(client: AestheticClient, options: argparse.Namespace) -> int:
    info = client.info()
    if options.json:
        print(json.dumps(dataclasses.asdict(info), indent=2, ensure_ascii=False))
        return 0
    print(f"model    {info.model.name}, version {info.model.version}")
    print(f"runs on  {info.device or 'nothing: it is not loaded'} ({info.runtime}, {info.precision})")
    print(f"limits   {info.limits.max_candidates} candidates, {info.limits.max_image_bytes} bytes an image")
    print(f"formats  {', '.join(info.limits.formats)}; URLs: {info.limits.fetch}")
    print(f"scores   {info.scale.raw_score}")
    return 0


def _health(client: AestheticClient, options: argparse.Namespace) -> int:
    health = client.health()
    if options.json:
        print(json.dumps(dataclasses.asdict(health), indent=2, ensure_ascii=False))
    else:
        print(health.status)
        for name, part in health.parts.items():
            print(f"  {name:<8} {part.status:<8} {part.detail}")
    return 0 if health.is_ready else 1


def _ask(client: AestheticClient, prompt: str, inputs: list[Input]) -> Table:
    """Score all images, in as many requests as they need, and rank them together."""
    limits = client.info().limits
    scored: list[tuple[Input, RankedCandidate]] = []
    failed: list[tuple[Input, ErrorInfo]] = []
    model = None
    done = 0
    for batch in batches((item.image for item in inputs), limits):
        try:
            ranking = client.score_batch(prompt=prompt, candidates=batch)
        except AestheticError as error:
            if not error.failed:
                raise
            failed += [(inputs[done + item.index], item.error) for item in error.failed]
        else:
            model = ranking.model
            scored += [(inputs[done + item.index], item) for item in ranking.results]
            failed += [(inputs[done + item.index], item.error) for item in ranking.failed]
        done += len(batch)
        _show_progress(done, len(inputs))
    scored.sort(key=lambda entry: -entry[1].raw_score)
    return Table(prompt, model or client.info().model, _ranked(scored), failed)


def _ranked(scored: list[tuple[Input, RankedCandidate]]) -> list[tuple[Input, RankedCandidate]]:
    """Give each its place among all; equal scores share one."""
    ranked: list[tuple[Input, RankedCandidate]] = []
    for place, (item, result) in enumerate(scored, start=1):
        is_equal = bool(ranked) and ranked[-1][1].raw_score == result.raw_score
        rank = ranked[-1][1].rank if is_equal else place
        ranked.append((item, dataclasses.replace(result, rank=rank)))
    return ranked


def _lines(table: Table, min_score: float | None) -> list[str]:
    lines = [f"{table.prompt}   [{table.model.name}]", "rank  raw_score  normalized  percentile  image"]
    for item, result in table.results:
        below = "" if min_score is None or result.raw_score >= min_score else f"  (below {min_score:g})"
        lines.append(
            f"{result.rank:>4}  {result.raw_score:>9.3f}  {result.normalized_score:>10.3f}"
            f"  {result.percentile:>10.1f}  {item.name}{below}"
        )
    lines += [f"   -  {item.name}: {error.detail} ({error.code})" for item, error in table.failed]
    return lines


def _plain(table: Table) -> dict[str, object]:
    return {
        "prompt": table.prompt,
        "model": dataclasses.asdict(table.model),
        "results": [
            {"image": item.name}
            | {key: value for key, value in dataclasses.asdict(result).items() if key not in {"id", "index"}}
            for item, result in table.results
        ],
        "failed": [{"image": item.name, "error": dataclasses.asdict(error)} for item, error in table.failed],
    }


def _show_progress(done: int, total: int) -> None:
    """Draw a bar where somebody watches and the work takes more than one request."""
    if not sys.stderr.isatty() or (done == total and done <= 10):
        return
    filled = math.floor(_BAR_WIDTH * done / total)
    bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
    print(f"\r{bar} {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _key(path: Path | None) -> str | None:
    if path is not None:
        return path.read_text(encoding="utf-8").strip()
    return os.environ.get("AESTHETIC_API_KEY") or None


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--url",
        default=os.environ.get("AESTHETIC_URL") or DEFAULT_URL,
        help=f"of the service; by default AESTHETIC_URL, else {DEFAULT_URL}",
    )
    common.add_argument(
        "--api-key-file",
        type=Path,
        help="holds the key; without it AESTHETIC_API_KEY counts (an option that holds the key itself "
        "would show it to every user of the machine)",
    )
    common.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT_S, help="seconds for each request with its retries"
    )
    common.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(prog="aesthetic", description="How well do images answer their prompt?")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser("score", parents=[common], help="score and rank images")
    score.add_argument("-p", "--prompt", required=True, help="what the images were meant to show")
    score.add_argument(
        "images", nargs="+", metavar="IMAGE", help="file, folder, http(s) address, or - for standard input"
    )
    score.add_argument("--min-score", type=float, help="exit with 1 where no raw_score reaches it")
    score.add_argument("--html", type=Path, metavar="FILE", help="write a page with the pictures, ranked")
    score.set_defaults(run=_score)
    info = commands.add_parser("info", parents=[common], help="say what is served")
    info.set_defaults(run=_info)
    health = commands.add_parser("health", parents=[common], help="say how the service is; 1 if not ready")
    health.set_defaults(run=_health)
    return parser
