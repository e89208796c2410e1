"""`python -m demo`: train the demonstration model, ship it, measure what is shipped, draw its examples."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from demo import examples, report, sheet, shipped
from demo.errors import DemoError
from demo.evaluate import TESTED
from demo.training import Plan, train
from export.choose import DEMO_DIRECTORY
from export.errors import ExportError
from reward import runtimes
from reward.errors import RewardError

if TYPE_CHECKING:
    from demo.evaluate import Report

REPORT: Final = Path(__file__).with_name("report.json")


def main() -> int:
    """Run one command; errors are one line on standard error and exit status 1."""
    arguments = _parser().parse_args()
    try:
        _run(arguments)
    except (DemoError, ExportError, RewardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "train":
            plan = Plan(
                steps=arguments.steps,
                seed=arguments.seed,
                workers=arguments.workers,
                groups=arguments.groups,
                learning_rate=arguments.learning_rate,
            )
            train(arguments.out, plan, resume=arguments.resume, device=arguments.device)
        case "test":
            _print(report.begin(arguments.run, arguments.model, arguments.report))
        case "publish":
            shipped.publish(arguments.model, arguments.model_directory)
        case "verify":
            _print(report.verify(arguments.model_directory, arguments.report))
        case "picture":
            ranked = sheet.rank(runtimes.load(arguments.model_directory), arguments.examples)
            sheet.save(ranked, arguments.out)
        case "examples":
            examples.write(arguments.out)


def _print(measured: Report) -> None:
    for name in TESTED:
        accuracy = measured.accuracies[name]
        target = f"  (target {report.TARGETS[name]:.0%})" if name in report.TARGETS else ""
        print(f"{name:9} {accuracy.share:6.1%} of {accuracy.pairs} pairs{target}")
    print(f"rewards: mean {measured.mean:z.4f}, standard deviation {measured.deviation:.4f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train from nothing, or go on")
    training.add_argument("--out", type=Path, required=True, help="folder of the run's state and log")
    training.add_argument("--steps", type=int, default=Plan.steps, help="(default: %(default)s)")
    training.add_argument("--seed", type=int, default=Plan.seed, help="(default: %(default)s)")
    training.add_argument(
        "--workers",
        type=int,
        default=Plan.workers,
        help="processes, one core each; another number is another run (default: %(default)s)",
    )
    training.add_argument(
        "--groups",
        type=int,
        default=Plan.groups,
        help="of four pictures, per worker and step (default: %(default)s)",
    )
    training.add_argument(
        "--learning-rate", type=float, default=Plan.learning_rate, help="(default: %(default)s)"
    )
    training.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the workers compute; each draws on a core (default: %(default)s)",
    )
    training.add_argument(
        "--resume", action="store_true", help="go on where the run in --out stopped; the same options again"
    )
    testing = commands.add_parser(
        "test", help="test a run on what was held out, calibrate it, write its model and begin the report"
    )
    testing.add_argument("--run", type=Path, required=True, help="folder of a trained run")
    testing.add_argument("--model", type=Path, required=True, help="safetensors file to write")
    publishing = commands.add_parser("publish", help="export a calibrated model into the repository")
    publishing.add_argument("--model", type=Path, required=True, help="safetensors file that `test` wrote")
    verifying = commands.add_parser(
        "verify", help="test the published model on what was held out, and complete the report"
    )
    picturing = commands.add_parser("picture", help="draw the examples as the published model ranks them")
    picturing.add_argument("--out", type=Path, required=True, help="PNG file to write")
    picturing.add_argument("--examples", type=Path, default=Path("examples"), help="(default: %(default)s)")
    drawing = commands.add_parser("examples", help="draw the example pictures")
    drawing.add_argument("--out", type=Path, required=True)
    for command in (publishing, verifying, picturing):
        command.add_argument(
            "--model-directory", type=Path, default=DEMO_DIRECTORY, help="of the published model"
        )
    for command in (testing, verifying):
        command.add_argument("--report", type=Path, default=REPORT, help="JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
