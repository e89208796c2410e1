"""Train the demonstration model, test it, draw examples: `python -m export.demo {train,test,examples}`."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.demo.evaluate import TESTED
from export.demo.examples import write
from export.demo.report import TARGETS, finish
from export.demo.training import Plan, train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train from nothing, or go on")
    training.add_argument("--out", type=Path, required=True, help="folder of the run's state and log")
    training.add_argument("--steps", type=int, default=Plan.steps)
    training.add_argument("--seed", type=int, default=Plan.seed)
    training.add_argument("--workers", type=int, default=Plan.workers, help="processes, one core each")
    training.add_argument("--groups", type=int, default=Plan.groups)
    training.add_argument("--learning-rate", type=float, default=Plan.learning_rate)
    training.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    testing = commands.add_parser("test", help="test what was held out, calibrate, write the model")
    testing.add_argument("--run", type=Path, required=True, help="folder of a trained run")
    testing.add_argument("--model", type=Path, required=True, help="safetensors file to write")
    testing.add_argument("--report", type=Path, default=Path(__file__).with_name("report.json"))
    drawing = commands.add_parser("examples", help="draw the example pictures")
    drawing.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "train":
        plan = Plan(
            steps=arguments.steps,
            seed=arguments.seed,
            workers=arguments.workers,
            groups=arguments.groups,
            learning_rate=arguments.learning_rate,
        )
        train(arguments.out, plan, resume=arguments.resume)
    elif arguments.command == "test":
        measured = finish(arguments.run, arguments.model, arguments.report)
        for name in TESTED:
            accuracy = measured.accuracies[name]
            target = f"  (target {TARGETS[name]:.0%})" if name in TARGETS else ""
            print(f"{name:9} {accuracy.share:6.1%} of {accuracy.pairs} pairs{target}")
    else:
        write(arguments.out)


if __name__ == "__main__":
    main()
