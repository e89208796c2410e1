"""`python -m demo`: train the demonstration model, ship it with its report, draw its examples."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo import examples, shipped
from demo.errors import DemoError
from demo.evaluate import TESTED
from demo.training import Plan, train
from export.choose import DEMO_DIRECTORY
from export.errors import ExportError
from reward.errors import RewardError


def main(words: list[str] | None = None) -> int:
    """Run one command; errors are one line on standard error and exit status 1."""
    arguments = vars(_parser().parse_args(words))
    try:
        _run(**arguments)
    except (DemoError, ExportError, RewardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(command: str, path: Path, *, resume: bool = False, device: str = "cpu", **plan: float) -> None:
    match command:
        case "train":
            train(path, Plan(**plan), resume=resume, device=device)  # type: ignore[arg-type]
        case "ship":
            measured = shipped.ship(path, DEMO_DIRECTORY, shipped.REPORT)
            for name in TESTED:
                target = f"  (target {shipped.TARGETS[name]:.0%})" if name in shipped.TARGETS else ""
                print(f"{name:9} {measured.accuracies[name].share:6.1%}{target}")
        case "examples":
            examples.write(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train from nothing, or go on")
    for name, meaning in (
        ("steps", "of training"),
        ("seed", "of weights and pictures"),
        ("workers", "processes, one core each; another number is another run"),
        ("groups", "of four pictures, per worker and step"),
        ("learning_rate", "at its highest"),
    ):
        default = getattr(Plan, name)
        option = f"--{name.replace('_', '-')}"
        training.add_argument(
            option, type=type(default), default=default, help=f"{meaning} (default: %(default)s)"
        )
    where = "where the workers compute; each draws on a core (default: %(default)s)"
    training.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=where)
    again = "go on where the run in --out stopped; the same options again"
    training.add_argument("--resume", action="store_true", help=again)
    shipping = commands.add_parser(
        "ship", help="calibrate a run, publish it into demo/model, report.json too"
    )
    drawing = commands.add_parser("examples", help="draw the example pictures")
    for command, option, meaning in (
        (training, "--out", "folder of the run's state and log"),
        (shipping, "--run", "folder of a trained run"),
        (drawing, "--out", "folder to write to"),
    ):
        command.add_argument(option, dest="path", type=Path, required=True, help=meaning)
    return parser


if __name__ == "__main__":
    sys.exit(main())
