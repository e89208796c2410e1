"""The commands about what is served: promote, rollback, list, verify, prune and audit."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from export import golden
from export.checks import check
from export.deploy import Deployer, Manner
from export.errors import TritonFailed
from export.running_triton import environment, find
from export.second_share import LedgerSettings
from export.served_config import BACKENDS, DEVICES, network_settings
from export.trial import trial
from reward import deployment, runtimes
from reward.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.deploy import Outcome
    from export.registry import Registry
    from export.running_triton import RunningTriton

NOT_LIVE = 7
"""The exit status of a change that was made while no Triton had the model loaded."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to a parser."""
    promote = _command(commands, "promote", "serve a version, live where Triton runs", promote_version)
    promote.add_argument("version", type=int)
    beside = promote.add_mutually_exclusive_group()
    for name, what in (("canary", "answer"), ("shadow", "score too, without answering,")):
        beside.add_argument(
            f"--{name}", type=_share, metavar="5%", help=f"let it {what} this share of the questions"
        )
    promote.add_argument("--device", choices=DEVICES, help="(default: what it was published for)")
    promote.add_argument("--backend", choices=BACKENDS, help="of Triton (default: as before)")
    promote.add_argument(
        "--force", action="store_true", help="even if it did not pass its gates, or is for a GPU and on a CPU"
    )
    rollback = _command(commands, "rollback", "undo the last promotion, canary or shadow", roll_back)
    for command in (promote, rollback):
        command.add_argument("--why", default="", help="kept in the history")
        command.add_argument("--who", default="", help="kept in the history (default: the user)")
        command.add_argument(
            "--watch-s",
            type=float,
            default=Manner.watch_s,
            help="how long to watch it (default: %(default)s)",
        )
        command.add_argument(
            "--timeout-s",
            type=float,
            default=Manner.load_timeout_s,
            help="of a trial and of a load (default: %(default)s)",
        )
        command.add_argument(
            "--replace", action="store_true", help="unload the old one first: there is no memory for both"
        )
        command.add_argument(
            "--wait",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="until it is live and was watched; else go on in the background when the checks are passed",
        )
    _command(commands, "list", "what is published, promoted and loaded", list_versions)
    verify = _command(
        commands, "verify", "check a version, and try it in a process of its own", verify_version
    )
    verify.add_argument("version", type=int, nargs="?", help="(default: the one that is served)")
    verify.add_argument(
        "--golden", action="store_true", help="compare it with the scores that upstream published, too"
    )
    verify.add_argument("--images", type=Path, help="upstream's assets/images; downloaded by default")
    verify.add_argument("--timeout-s", type=float, default=Manner.load_timeout_s, help=argparse.SUPPRESS)
    prune = _command(commands, "prune", "remove old versions that are not in use", prune_versions)
    prune.add_argument("--keep", type=int, required=True, metavar="K", help="so many of the newest stay")
    _command(commands, "audit", "who changed what is served, when and why", audit)


def promote_version(registry: Registry, arguments: argparse.Namespace) -> int:
    """Run `promote`."""
    deployer = _deployer(registry, arguments)
    return _report(
        arguments,
        deployer.promote(
            arguments.version,
            canary=arguments.canary,
            shadow=arguments.shadow,
            device=arguments.device,
            backend=arguments.backend,
            force=arguments.force,
        ),
    )


def roll_back(registry: Registry, arguments: argparse.Namespace) -> int:
    """Run `rollback`."""
    return _report(arguments, _deployer(registry, arguments).rollback())


def list_versions(registry: Registry, arguments: argparse.Namespace) -> int:
    """Run `list`."""
    triton = _triton(registry, arguments)
    loaded: set[int] | None = None
    scored_by = None
    try:
        if triton is not None and triton.is_up():
            loaded, scored_by = triton.loaded(), triton.scored_by()
    except TritonFailed as error:
        print(f"warning: {error}", file=sys.stderr)
    roles = _roles(registry)
    versions = [
        {
            "version": version.number,
            "role": roles.get(version.number, ""),
            "is_loaded": None if loaded is None else version.number in loaded,
            **{
                name: getattr(version.manifest, name)
                for name in ("name", "precision", "checkpoint_sha256", "created_at")
            },
            "gates_passed": None if version.manifest.gates is None else version.manifest.gates.get("passed"),
        }
        for version in registry.versions()
    ]
    missing = sorted(set(roles) - {version["version"] for version in versions})
    if arguments.json:
        state = {
            "versions": versions,
            "missing": missing,
            "ensemble": scored_by,
            "triton": loaded is not None,
        }
        print(json.dumps(state))
        return 0
    if not versions:
        print(f"nothing is published in {registry.repository}")
    for entry in versions:
        loading = {None: "", True: "loaded", False: "-"}[entry["is_loaded"]]
        gates = {None: "", True: "gates passed", False: "BELOW ITS GATES"}[entry["gates_passed"]]
        print(
            f"{entry['version']:>4} {entry['role']:<12} {loading:<7} {entry['name']:<24} {entry['precision']:<5} "
            f"{entry['checkpoint_sha256'][:12]} {entry['created_at']} {gates}".rstrip()
        )
    for number in missing:
        print(f"{number:>4} {roles[number]:<12} MISSING: deleted by hand? promote another version")
    if loaded is None:
        print("no Triton is known to run on this repository")
    elif scored_by is not None:
        newest = " (the newest)" if scored_by == -1 else ""
        print(f"Triton at {triton and triton.url}: the ensemble scores with {scored_by}{newest}")
    else:
        print(f"Triton at {triton and triton.url}: the model is not loaded")
    return 0


def verify_version(registry: Registry, arguments: argparse.Namespace) -> int:
    """Run `verify`."""
    version = registry.version(arguments.version)
    directory = registry.directory(version.number)
    check(directory, below_gates=True)
    settings = network_settings(registry.repository, deployment.read(registry.repository))
    scores = trial(directory, settings, timeout_s=arguments.timeout_s)
    passed = (version.manifest.gates or {}).get("passed")
    says = f"version {version.number} is whole, and scores"
    if arguments.golden:
        report = golden.measure(runtimes.load(directory), arguments.images)
        if not arguments.json:
            print(report.table())
        report.check()
        says = (
            f"version {version.number} scores as published: "
            f"{report.max_difference:.2g} apart at most, {golden.TOLERANCE:g} is allowed"
        )
    if arguments.json:
        print(json.dumps({"version": version.number, "says": says, "scores": scores, "gates_passed": passed}))
    else:
        print(says + ("; it did not pass its gates" if passed is False else ""))
    return 0


def prune_versions(registry: Registry, arguments: argparse.Namespace) -> int:
    """Run `prune`."""
    removed = _deployer(registry, arguments).prune(arguments.keep)
    if arguments.json:
        print(json.dumps({"removed": removed}))
    else:
        print(f"removed {', '.join(map(str, removed)) or 'nothing'}")
    return 0


def audit(registry: Registry, arguments: argparse.Namespace) -> int:
    """Run `audit`."""
    history = deployment.read(registry.repository).history
    if arguments.json:
        print(json.dumps([dataclasses.asdict(change) for change in history]))
        return 0
    for change in history:
        before = "-" if change.before is None else change.before
        print(
            f"{change.at}  {change.who:<12} {change.action:<9} {before:>3} -> {change.after:<3} {change.why}".rstrip()
        )
    return 0


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
    run: Callable[[Registry, argparse.Namespace], int],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what)
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="print one JSON value")
    command.add_argument(
        "--triton-url",
        default="",
        metavar="HOST:PORT",
        help="of its HTTP door (default: AESTHETIC_TRITON_URL, or where `make up` noted it)",
    )
    command.add_argument(
        "--triton-grpc-url",
        default="",
        metavar="HOST:PORT",
        help="of its gRPC door, by which loading disturbs nobody (default: AESTHETIC_TRITON_GRPC_URL, or as above)",
    )
    command.add_argument(
        "--admin-key-file",
        type=Path,
        metavar="FILE",
        help="the key to its model control (default: AESTHETIC_TRITON_ADMIN_KEY_FILE, or as above)",
    )
    return command


def _deployer(registry: Registry, arguments: argparse.Namespace) -> Deployer:
    manner = Manner(who=user())
    if "watch_s" in arguments:
        # If a pipeline is cancelled, the old version is served again, as after Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        manner = Manner(
            who=arguments.who or user(),
            why=arguments.why,
            watch_s=arguments.watch_s,
            load_timeout_s=arguments.timeout_s,
            replace=arguments.replace,
            ledger=None if arguments.replace else LedgerSettings.read(environment(registry.repository)),
        )
    return Deployer(
        registry,
        _triton(registry, arguments),
        manner,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        on_checked=lambda: None if vars(arguments).get("wait", True) else _go_on_in_the_background(arguments),
    )


def _triton(registry: Registry, arguments: argparse.Namespace) -> RunningTriton | None:
    return find(
        registry.repository,
        url=arguments.triton_url,
        grpc_url=arguments.triton_grpc_url,
        admin_key_file=arguments.admin_key_file,
        environment=os.environ,
        load_timeout_s=vars(arguments).get("timeout_s", Manner.load_timeout_s),
    )


def _go_on_in_the_background(arguments: argparse.Namespace) -> None:
    """Leave the rest to a child process, which keeps the lock; its result is in the history."""
    if os.fork():
        says = "checked; the rest goes on in the background: see `list` and `audit`"
        print(
            json.dumps({"is_live": False, "says": says, "exit_status": 0}) if arguments.json else says,
            flush=True,
        )
        os._exit(0)
    os.setsid()
    with Path(os.devnull).open("r+b") as nothing:
        for descriptor in (0, 1, 2):
            os.dup2(nothing.fileno(), descriptor)


def _report(arguments: argparse.Namespace, outcome: Outcome) -> int:
    status = 0 if outcome.is_live or not outcome.is_changed else NOT_LIVE
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(outcome), "exit_status": status}))
    else:
        print(outcome.says)
    return status


def _roles(registry: Registry) -> dict[int, str]:
    try:
        content = deployment.read(registry.repository)
    except VersionError:
        return {}
    roles: dict[int, str] = {}
    if content.earlier_stable is not None:
        roles[content.earlier_stable] = "before"
    for name, share in (("shadow", content.shadow), ("canary", content.canary)):
        if share is not None:
            roles[share.version] = f"{name} {share.share * 100:g} %"
    return {**roles, content.stable: "served"}


def _share(text: str) -> float:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a share is above 0 and at most 100%")
    return value


def user() -> str:
    """Return the name of whoever runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
