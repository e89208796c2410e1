"""`python -m export`: from weights to published versions of the network, and how good they are."""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Final

from export import deploy_commands, evaluate
from export.choose import DEMO, Chooser
from export.deploy import Deployer, Manner
from export.deploy_commands import user
from export.errors import Busy, ExportError, NoSecondShare, RegistryError, ToolsMissing, Undone
from export.official import OFFICIAL
from export.placement import PRECISIONS
from export.registry import DEFAULT_REPOSITORY, Registry
from export.running_triton import environment, find
from export.scoring import score
from export.second_share import LedgerSettings
from export.served_config import DEVICES
from reward import runtimes
from reward.errors import RewardError

NEEDS_TOOLS: Final = 3
"""The exit status that tells `make up` to install the export's tools and ask again."""

EXIT_STATUSES: Final[dict[type[ExportError], int]] = {
    ToolsMissing: NEEDS_TOOLS,
    RegistryError: 4,  # refused: nothing has changed
    Undone: 5,  # what was served before is served again
    Busy: 6,
    NoSecondShare: 8,  # nothing has changed; `--replace` needs no second share
}
"""1 for every other error, 2 for a wrong command line, 7 for a change that waits for Triton."""


def main(words: list[str] | None = None) -> int:
    """Run one command; an error is one line on standard error, and its kind is the exit status."""
    arguments = _parser().parse_args(words)
    try:
        return _run(arguments)
    except (ExportError, RewardError) as error:
        status = next((status for kind, status in EXIT_STATUSES.items() if isinstance(error, kind)), 1)
        if vars(arguments).get("json"):
            print(json.dumps({"error": type(error).__name__, "says": str(error), "exit_status": status}))
        print(error if status == NEEDS_TOOLS else f"error: {error}", file=sys.stderr)
        return status
    except KeyboardInterrupt:
        return 130  # the shell's number for it; a download can last


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "fetch":
        _fetch(arguments)
        return 0
    registry = Registry(arguments.repository)
    if "run" in arguments:
        status: int = arguments.run(registry, arguments)
        return status
    match arguments.command:
        case "ensure":
            chooser = Chooser(registry, _quiet_deployer(registry), lambda text: print(text, flush=True))
            chooser.ensure(
                model=arguments.model,
                checkpoint=arguments.checkpoint,
                name=arguments.name,
                precision=arguments.precision,
            )
        case "publish":
            _publish(registry, arguments)
        case "evaluate":
            _evaluate(registry, arguments)
    return 0


def _quiet_deployer(registry: Registry) -> Deployer:
    triton = find(registry.repository, environment=os.environ)
    # If no Triton runs, nobody is asked for memory.
    ledger = LedgerSettings.read(environment(registry.repository)) if triton else None
    return Deployer(registry, triton, Manner(who=user(), start_timeout_s=0, ledger=ledger))


def _fetch(arguments: argparse.Namespace) -> None:
    from export.fetch import fetch, verified  # noqa: PLC0415 - serving does without huggingface_hub

    print(verified(arguments.file) if arguments.file else fetch())


def _evaluate(registry: Registry, arguments: argparse.Namespace) -> None:
    from tqdm import tqdm  # noqa: PLC0415 - serving does without

    annotations = evaluate.read(arguments.annotations)
    version = registry.version(arguments.version)
    scorer = runtimes.load(registry.directory(version.number))
    bar = tqdm(annotations, unit="prompt", disable=arguments.quiet)
    agreement = evaluate.evaluate(bar, arguments.images, partial(score, scorer))
    print(f"{version.manifest.name}, version {version.number}, {len(annotations)} prompts")
    print(agreement.table())


def _publish(registry: Registry, arguments: argparse.Namespace) -> None:
    # torch takes seconds to import, and `list` needs none
    from export.publish import Recipe, publish  # noqa: PLC0415
    from reward.network import Dimensions  # noqa: PLC0415

    dimensions = Dimensions(**json.loads(arguments.dimensions.read_text())) if arguments.dimensions else None
    device = arguments.device or PRECISIONS[arguments.precision or "fp32"][0]
    deployer = _quiet_deployer(registry)
    deployer.keep()  # from now on a newer version does not take the place of what is served
    is_first = not registry.versions()
    recipe = Recipe(
        arguments.checkpoint,
        arguments.name,
        dimensions,
        precision=arguments.precision or ("fp16" if device == "gpu" else "fp32"),
        device=device,
        gate_set=arguments.gate_set,
        calibration=arguments.calibration,
        force=arguments.force,
    )
    number = publish(registry, recipe, show_progress=not arguments.quiet)
    version = registry.version(number)
    print(f"published {registry.directory(number)}: {version.manifest.name}")
    print((version.manifest.gates or {})["summary"])
    if arguments.promote or is_first:
        # A version below its gates was published with --force.
        print(deployer.promote(number, device=device, force=True, is_tried=True).says)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument(
        "--repository", type=Path, default=DEFAULT_REPOSITORY, help="model repository (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    publish = commands.add_parser("publish", help="export a checkpoint, compare it with torch and publish it")
    publish.add_argument("--checkpoint", type=Path, required=True, help=".pt as upstream's, or .safetensors")
    publish.add_argument("--name", required=True, help="of the weights, shown in every response")
    publish.add_argument(
        "--dimensions", type=Path, help="JSON, for a .pt of other size than ImageReward-v1.0"
    )
    publish.add_argument(
        "--device", choices=DEVICES, help="for which (default: cpu, if the precision has it)"
    )
    publish.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="cpu: fp32 or int8; gpu: fp16, bf16 or fp32 (default: the first)",
    )
    publish.add_argument("--gate-set", type=Path, metavar="DIR", help="images and prompts.json to compare on")
    publish.add_argument(
        "--calibration", type=Path, metavar="DIR", help="images and prompts.json that scale int8"
    )
    publish.add_argument("--force", action="store_true", help="publish even if it is too far from fp32")
    publish.add_argument("--promote", action="store_true", help="serve it even if another version is served")
    publish.add_argument("--quiet", action="store_true", help="no progress bar")
    fetch = commands.add_parser("fetch", help=f"download {OFFICIAL.name}, verify it and print where it lies")
    fetch.add_argument("--file", type=Path, help="verify this file instead, brought by hand")
    ensure = commands.add_parser("ensure", help="what `make up` does first: see to it that a model is served")
    ensure.add_argument("--model", default="", help=f"{DEMO}, {OFFICIAL.name}, or a published version's name")
    ensure.add_argument("--checkpoint", type=Path, help="publish this one, unless it is, and serve it")
    ensure.add_argument("--name", default="", help="of the checkpoint's weights")
    ensure.add_argument(
        "--precision",
        choices=["", *PRECISIONS],
        default="",
        help="(default: whatever is published, or else fp32)",
    )
    evaluation = commands.add_parser("evaluate", help="measure a published version's agreement with people")
    evaluation.add_argument(
        "--annotations",
        type=Path,
        required=True,
        help="JSON in ImageRewardDB's format: upstream's data/test.json",
    )
    evaluation.add_argument("--images", type=Path, required=True, help="directory of the annotated images")
    evaluation.add_argument("--quiet", action="store_true", help="no progress bar")
    evaluation.add_argument("--version", type=int, metavar="N", help="(default: the served one)")
    deploy_commands.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
