"""`python -m export`: publish, list, promote and roll back versions of the network."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from export.errors import ExportError
from export.registry import DEFAULT_REPOSITORY, Registry
from reward import preprocess
from reward.errors import RewardError
from reward.files import sha256


def main() -> int:
    """Run one command; errors are one line on standard error and exit status 1."""
    arguments = _parser().parse_args()
    try:
        registry = Registry(arguments.repository)
        match arguments.command:
            case "publish":
                _publish(registry, arguments)
            case "list":
                _list(registry)
            case "promote":
                registry.promote(arguments.version)
                print(f"version {arguments.version} is served from the next start of Triton")
            case "rollback":
                print(f"version {registry.rollback()} is served from the next start of Triton")
    except (ExportError, RewardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _publish(registry: Registry, arguments: argparse.Namespace) -> None:
    if arguments.once and (number := _published_already(registry, arguments)) is not None:
        print(f"{arguments.checkpoint} is published already, as version {number}")
        if not _is_served(registry, number):
            registry.promote(number)
            print(f"version {number} is served from the next start of Triton")
        return
    from export.publish import publish  # noqa: PLC0415 - torch takes seconds to import; `list` needs none
    from reward.network import Dimensions  # noqa: PLC0415

    dimensions = None
    if arguments.dimensions:
        dimensions = Dimensions(**json.loads(arguments.dimensions.read_text()))
    number = publish(
        registry,
        arguments.checkpoint,
        name=arguments.name,
        dimensions=dimensions,
        tolerance=arguments.tolerance,
        show_progress=not arguments.quiet,
    )
    version = next(version for version in registry.versions() if version.number == number)
    print(
        f"published {registry.directory(number)}: {version.manifest.name}, "
        f"differs from torch by {version.manifest.parity['max_difference']:.1e} at most"
    )
    if arguments.promote or not any(version.served for version in registry.versions()):
        registry.promote(number)
        print(f"version {number} is served from the next start of Triton")


def _published_already(registry: Registry, arguments: argparse.Namespace) -> int | None:
    digest = sha256(arguments.checkpoint)
    for version in reversed(registry.versions()):
        content = version.manifest
        if (content.checkpoint_sha256, content.preprocessing, content.name) == (
            digest,
            preprocess.digest(),
            arguments.name,
        ):
            return version.number
    return None


def _is_served(registry: Registry, number: int) -> bool:
    return any(version.served and version.number == number for version in registry.versions())


def _list(registry: Registry) -> None:
    versions = registry.versions()
    if not versions:
        print(f"nothing is published in {registry.repository}")
    for version in versions:
        content = version.manifest
        print(
            f"{version.number:>4} {'served' if version.served else '':<7} {content.name:<24} {content.precision} "
            f"{content.checkpoint_sha256[:12]} {content.created_at}"
        )


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
        "--tolerance", type=float, default=1e-4, help="largest difference (default: %(default)s)"
    )
    publish.add_argument("--promote", action="store_true", help="serve it even if another version is served")
    publish.add_argument(
        "--once", action="store_true", help="do nothing if this checkpoint is published already"
    )
    publish.add_argument("--quiet", action="store_true", help="no progress bar")
    commands.add_parser("list", help="list the published versions")
    promote = commands.add_parser("promote", help="make a published version the served one")
    promote.add_argument("version", type=int)
    commands.add_parser("rollback", help="serve the version promoted before the present one again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
