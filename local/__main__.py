"""`python -m local`: Triton and the frontend on this machine, with a ledger if asked for."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from local.alone import Patience, TritonSettings, run_frontend, run_triton
from local.console import complain, have_all_descriptors
from local.demo import demo
from local.errors import LocalError
from local.ledger import TOTAL_MB, LedgerSettings
from local.stack import Stack, StackSettings
from local.tritonserver import Ports
from model_boss import InvalidClaim, SharedGpu

if TYPE_CHECKING:
    from collections.abc import Coroutine


def main() -> int:
    """Run the stack in the foreground; errors are one line on standard error and exit status 1."""
    have_all_descriptors()
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.command == "up" and not arguments.redis and (arguments.gpu or arguments.gpu_total_mb):
        parser.error("--gpu and --gpu-total-mb go with --redis")
    redis_url = os.environ.get("AESTHETIC_REDIS_URL") or None
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # every connection is an open file
    try:
        if arguments.command in {"triton", "frontend"}:
            asyncio.run(_alone(arguments))
            return 0
        settings = StackSettings(
            arguments.repository,
            arguments.directory,
            redis_url=redis_url,
            otlp_url=os.environ.get("AESTHETIC_OTLP_URL") or None,
        )
        if arguments.command == "demo":
            asyncio.run(demo(settings, arguments.examples))
        else:
            asyncio.run(Stack(_settings(settings, arguments)).run())
    except (LocalError, InvalidClaim) as error:
        complain(f"error: {error}")
        return 1
    return 0


def _alone(arguments: argparse.Namespace) -> Coroutine[None, None, None]:
    patience = Patience(arguments.ready_timeout_s, arguments.unready_limit_s)
    if arguments.command == "frontend":
        return run_frontend(patience)
    settings = TritonSettings(
        arguments.repository,
        arguments.directory,
        arguments.admin_key_file,
        host=arguments.host,
        server_id=arguments.id,
        is_gpu_shared=arguments.shared_gpu,
        patience=patience,
        otlp_url=os.environ.get("AESTHETIC_OTLP_URL") or None,
    )
    return run_triton(settings)


def _settings(settings: StackSettings, arguments: argparse.Namespace) -> StackSettings:
    return replace(
        settings,
        host=arguments.host,
        port=arguments.port,
        triton_host=arguments.triton_host,
        triton=Ports(arguments.triton_http_port, arguments.triton_grpc_port, arguments.triton_metrics_port),
        device=arguments.device,
        ready_timeout_s=arguments.ready_timeout_s,
        unready_limit_s=arguments.unready_limit_s,
        ledger=_ledger(arguments) if arguments.redis else None,
        admin_key_file=arguments.admin_key_file,
    )


def _ledger(arguments: argparse.Namespace) -> LedgerSettings:
    shared = SharedGpu.of(os.environ, "AESTHETIC")
    gpu = arguments.gpu or shared.gpu
    return LedgerSettings(gpu, arguments.redis_port, arguments.gpu_total_mb, shared.options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start Triton and the frontend, until Ctrl-C")
    examples = commands.add_parser("demo", help="rank the example pictures through REST, and end")
    shown = "(default: %(default)s)"
    _add_alone(commands, shown)
    examples.add_argument("--examples", type=Path, default=Path("examples"), help=shown)
    for command in (up, examples):
        command.add_argument("--repository", type=Path, default=Path("model_repository"), help=shown)
        command.add_argument("--directory", type=Path, default=Path(".cache/local"), help=f"for logs {shown}")
    restarts = f"after so long without being ready, what fails is started again {shown}"
    for option, default, meaning in (
        ("--host", StackSettings.host, f"address of REST, and of Redis {shown}"),
        ("--port", StackSettings.port, f"REST {shown}"),
        (
            "--triton-host",
            StackSettings.triton_host,
            f"address of Triton's gRPC door: it has no keys {shown}",
        ),
        ("--triton-http-port", Ports.http, shown),
        ("--triton-grpc-port", Ports.grpc, shown),
        ("--triton-metrics-port", Ports.metrics, shown),
        ("--ready-timeout-s", StackSettings.ready_timeout_s, shown),
        ("--unready-limit-s", StackSettings.unready_limit_s, restarts),
        ("--redis-port", LedgerSettings.port, shown),
    ):
        up.add_argument(option, type=type(default), default=default, help=meaning)
    key = "file with the key of Triton's administration and shared memory, made if it is not there"
    up.add_argument("--admin-key-file", type=Path, metavar="FILE", help=key)
    device = "start only if the model is deployed there (default: wherever it is)"
    up.add_argument("--device", choices=["cpu", "gpu"], help=device)
    up.add_argument("--redis", action="store_true", help="start a Redis, too, for services to share the GPU")
    gpu = "with --redis: the ledger's name for the GPU (default: AESTHETIC_GPU, or HOSTNAME:0)"
    up.add_argument("--gpu", metavar="NAME", help=gpu)
    total_mb = (
        "with --redis: how much the ledger may give, in MiB "
        f"(default: the GPU's memory, or {TOTAL_MB} where none is seen)"
    )
    up.add_argument("--gpu-total-mb", type=int, metavar="N", help=total_mb)
    return parser


def _add_alone(commands: argparse._SubParsersAction[argparse.ArgumentParser], shown: str) -> None:
    triton = commands.add_parser("triton", help="run Triton alone, in a container (docs/deploy.md)")
    triton.add_argument("--repository", type=Path, default=Path("model_repository"), help=shown)
    triton.add_argument(
        "--directory", type=Path, default=Path(".cache/triton"), help=f"for its files {shown}"
    )
    triton.add_argument("--admin-key-file", type=Path, required=True, help="holds the administration key")
    triton.add_argument("--host", default=TritonSettings.host, help=f"address of all its doors {shown}")
    triton.add_argument("--id", default="", help="of its lease on a shared GPU (default: of HOSTNAME)")
    triton.add_argument(
        "--shared-gpu", action="store_true", help="leave the loading of the network to the frontends"
    )
    frontend = commands.add_parser("frontend", help="run the frontend alone, in a container")
    for command in (triton, frontend):
        ready = f"how long it may take to work {shown}"
        command.add_argument("--ready-timeout-s", type=float, default=Patience.start_s, help=ready)
        unready = f"after so long without working, it is ended {shown}"
        command.add_argument("--unready-limit-s", type=float, default=Patience.unready_s, help=unready)


if __name__ == "__main__":
    sys.exit(main())
