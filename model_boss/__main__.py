"""`python -m model_boss status | run | capacity`: the ledger from a shell.

The exit status of `run` is that of the command. Otherwise it is 0 for success, 1 for a refusal, 2
for wrong usage, 69 if Redis is not there (or was not when the wait of `run` ended), and 75 if the
claim was not granted in time.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
import uuid
from typing import Any, Final

from model_boss.claim import Capacity, Claim, Priority
from model_boss.command import run_command
from model_boss.errors import LedgerUnavailable, ModelBossError, NotGranted
from model_boss.lease import Lease
from model_boss.ledger import Ledger
from model_boss.memory import Nvml
from model_boss.options import LedgerOptions
from model_boss.table import render

_UNAVAILABLE: Final = 69  # EX_UNAVAILABLE and EX_TEMPFAIL of sysexits.h
_NOT_GRANTED: Final = 75


def main(arguments: list[str] | None = None) -> int:
    """Run one tool and return its exit status."""
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if parsed.verbose else logging.WARNING, format="model_boss: %(message)s"
    )
    if not parsed.redis_url:
        print("model_boss: no Redis: set MODEL_BOSS_REDIS_URL or give --redis-url", file=sys.stderr)
        return 2
    tools = {"status": _status, "run": _run, "capacity": _capacity}
    try:
        return asyncio.run(tools[parsed.tool](parsed))
    except NotGranted as error:
        if error.__cause__ is None:
            print(f"model_boss: {error}", file=sys.stderr)
            return _NOT_GRANTED
        print(f"model_boss: {error}: {error.__cause__}", file=sys.stderr)
        return _UNAVAILABLE
    except ModelBossError as error:
        print(f"model_boss: {error}", file=sys.stderr)
        return _UNAVAILABLE if isinstance(error, LedgerUnavailable) else 1
    except KeyboardInterrupt:
        return 130


async def _status(parsed: argparse.Namespace) -> int:
    async with _ledger(parsed) as ledger:
        gpus = parsed.gpu or await ledger.gpus()
        if not gpus:
            print("no GPU is known to this ledger")
        for gpu in gpus:
            print(render(await ledger.table(gpu)))
    return 0


async def _run(parsed: argparse.Namespace) -> int:
    claim = Claim(
        gpu=parsed.gpu,
        lease_id=parsed.lease_id or f"run-{uuid.uuid4()}",
        owner=parsed.owner or f"{socket.gethostname()}:{os.getpid()}",
        model=parsed.model or os.path.basename(parsed.command[0]),  # noqa: PTH119 - a word, not a path
        vram_mb=parsed.vram_mb,
        priority=Priority.parse(parsed.priority),
    )
    async with _ledger(parsed, meter=Nvml(), margin_mb=parsed.margin_mb) as ledger:
        return await run_command(
            Lease(ledger, claim, fail_open=parsed.fail_open, is_always_in_use=True),
            parsed.command,
            wait_s=parsed.wait_s,
            grace_s=parsed.grace_s,
            lost_grace_s=min(parsed.grace_s, parsed.ttl_s / 10),
        )


async def _capacity(parsed: argparse.Namespace) -> int:
    async with _ledger(parsed) as ledger:
        total_mb = parsed.total_mb
        if total_mb is None:
            memory = Nvml().read(parsed.gpu)
            if memory is None:
                print(f"model_boss: {parsed.gpu} cannot be seen from here: give --total-mb", file=sys.stderr)
                return 1
            total_mb = memory.total_mb
        await ledger.set_capacity(parsed.gpu, Capacity(total_mb, parsed.margin_mb))
        print(render(await ledger.table(parsed.gpu)))
    return 0


def _ledger(parsed: argparse.Namespace, **more: Any) -> Ledger:  # noqa: ANN401 - of `LedgerOptions`
    return Ledger(parsed.redis_url, LedgerOptions(prefix=parsed.prefix, ttl_s=parsed.ttl_s, **more))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model_boss", description="Leases on GPU memory, in Redis."
    )
    url = os.environ.get("MODEL_BOSS_REDIS_URL")
    parser.add_argument("--redis-url", default=url, help="default: MODEL_BOSS_REDIS_URL")
    parser.add_argument("--prefix", default="model-boss", help="of the keys (default: %(default)s)")
    parser.add_argument(
        "--ttl-s",
        type=float,
        default=LedgerOptions.ttl_s,
        help="the ledger's time to live (default: %(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="tell the lease's story on stderr")
    tools = parser.add_subparsers(dest="tool", required=True)

    status = tools.add_parser("status", help="a table of GPUs, leases and waiters")
    status.add_argument("--gpu", action="append", help="only this one; may be repeated")

    capacity = tools.add_parser("capacity", help="say how much memory a GPU has")
    capacity.add_argument("--gpu", required=True)
    capacity.add_argument("--total-mb", type=int, help="in MiB; default: what NVML says")
    capacity.add_argument("--margin-mb", type=int, default=0, help="never granted (default: %(default)s)")

    run = tools.add_parser("run", help="hold a lease while a command runs")
    run.add_argument("--gpu", required=True)
    run.add_argument("--vram-mb", type=int, required=True, help="the most that the command will use, in MiB")
    run.add_argument(
        "--priority",
        default="normal",
        help="urgent, high, normal, low, batch, or 0 to 1000, the most urgent (default: %(default)s)",
    )
    run.add_argument(
        "--wait-s", type=float, help="give up, with status 75, or 69 without Redis (default: wait for ever)"
    )
    run.add_argument(
        "--grace-s",
        type=float,
        default=30,
        help="between SIGTERM and SIGKILL when asked to yield (default: 30)",
    )
    run.add_argument("--fail-open", action="store_true", help="go on when Redis is gone: a GPU of one's own")
    run.add_argument(
        "--margin-mb", type=int, default=LedgerOptions.margin_mb, help="where no capacity is set yet"
    )
    run.add_argument("--lease-id", help="default: a new one")
    run.add_argument("--owner", help="default: host and process id")
    run.add_argument("--model", help="for the table; default: the command's name")
    run.add_argument("command", nargs="+", metavar="CMD", help="after --")
    return parser


if __name__ == "__main__":
    sys.exit(main())
