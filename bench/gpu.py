"""Measure versions for GPUs: how near they are to fp32, how fast alone, in Triton and through REST.

    python -m bench.gpu                        # on a machine with a GPU; a few minutes
    python -m bench.gpu --device cpu --small   # the same on a tiny network, to try the command

The weights are random, and the time does not depend on them. Each precision has a process of its
own, so that its memory and its start can be told. `python -m bench.gpu_bundle` packs what a machine
without a network needs.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from bench.growth import write_pictures
from bench.served import PROMPT
from export import questions
from export.deployment_store import DeploymentStore
from reward import checkpoint, runtimes
from reward.contract import NETWORK
from reward.deployment import Deployment
from reward.network import Dimensions
from reward.runtimes.torch_cuda import BATCH_SIZES, WEIGHTS_FILE_NAME
from tests.gpu_version import write_gpu_version
from tests.integration.stack import RunningStack
from tests.repository import copy_repository
from tests.small import SMALL, small_network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Inputs = tuple[NDArray[Any], ...]

PRECISIONS: Final = ("fp32", "fp16", "bf16")
"""Version 1 is what the others are compared with."""
CALLERS: Final = 16
LOAD: Final = 0.7


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    device: str
    dimensions: Dimensions
    batches: tuple[int, ...] = BATCH_SIZES
    pairs: int = 1000
    seconds: float = 2.0
    """For each figure."""
    is_upstream_asked: bool = True

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"


def main() -> None:
    """Measure all, or one precision in this process; print tables and write `--out`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="a tiny network, for a moment each")
    parser.add_argument("--no-upstream", action="store_true", help="without the upstream package beside it")
    parser.add_argument("--out", type=Path, help="a file for all figures as JSON")
    parser.add_argument("--alone", type=Path, metavar="VERSION", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    plan = Plan(arguments.device, Dimensions(), is_upstream_asked=not arguments.no_upstream)
    if arguments.small:
        plan = Plan(arguments.device, SMALL, (1, 4), pairs=20, seconds=0.2, is_upstream_asked=False)
    if arguments.alone:
        print(json.dumps(alone(plan, arguments.alone, compiled=arguments.compiled)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as directory:
        figures = measure(plan, Path(directory), [*sys.argv[1:]])
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(report(plan, figures))


def measure(plan: Plan, directory: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Measure everything; a figure that cannot be had is its error's text."""
    repository = copy_repository(directory / "model_repository")
    network = small_network(5, plan.dimensions)
    versions = {
        precision: write_gpu_version(repository / NETWORK.name / str(number), precision, network)
        for number, precision in enumerate(PRECISIONS, 1)
    }
    figures: dict[str, Any] = {"alone": {}}
    command = [sys.executable, "-m", "bench.gpu", *arguments]
    runs = [(precision, version, ()) for precision, version in versions.items()]
    if plan.is_gpu:
        runs.append(("fp16, compiled", versions["fp16"], ("--compiled",)))
    for name, version, more in runs:
        say(f"{name}: alone")
        done = subprocess.run(
            [*command, f"--alone={version}", *more], capture_output=True, text=True, check=False
        )
        figures["alone"][name] = json.loads(done.stdout) if done.returncode == 0 else done.stderr[-2000:]
    images = write_pictures(directory, 1024, 8)
    say("Triton and REST")
    figures["served"] = _attempt(lambda: served(plan, repository, directory, images))
    if plan.is_upstream_asked:
        say("upstream")
        figures["upstream"] = _attempt(lambda: upstream(plan, directory, images))
    return figures


def alone(plan: Plan, version: Path, *, compiled: bool) -> dict[str, Any]:
    """Measure one version in this process: memory, start, distance from fp32, images a second."""
    used = (lambda: int(torch.cuda.device_memory_used(plan.device)) >> 20) if plan.is_gpu else (lambda: 0)
    before_mb, started = used(), time.perf_counter()
    runtime = runtimes.load(version, device=plan.device, compiled=compiled)
    load_s, vram_mb = time.perf_counter() - started, used() - before_mb
    inputs = _pairs(plan.pairs)
    scores = np.concatenate([runtime.score(*_rows(inputs, at, 64)) for at in range(0, plan.pairs, 64)])
    # fp32 is the first version; without graphs and padding it is another way to the same scores.
    network = checkpoint.load(version.with_name("1") / WEIGHTS_FILE_NAME).to(plan.device)
    with torch.inference_mode():
        batches = [map(torch.from_numpy, _rows(inputs, at, 50)) for at in range(0, plan.pairs, 50)]
        expected = torch.cat([network(*(array.to(plan.device) for array in batch)) for batch in batches])
    differences = np.abs(scores - expected.cpu().numpy())
    return {
        "ran_on": runtime.ran_on,
        "load_s": load_s,
        "vram_mb": vram_mb,
        "max_difference": float(differences.max()),
        "mean_difference": float(differences.mean()),
        "deviation": float(expected.std()),
        "images_per_s": {
            batch: _rate(plan, lambda batch=batch: runtime.score(*_rows(inputs, 0, batch)), batch)
            for batch in plan.batches
        },
    }


def served(plan: Plan, repository: Path, directory: Path, images: list[Path]) -> dict[str, Any]:
    """Measure fp16 in the real Triton, by prepared pixels, and through REST."""
    number = 1 + PRECISIONS.index("fp16")
    DeploymentStore(repository).write(Deployment(number, device="gpu" if plan.is_gpu else "cpu"))
    # Decoding has all cores, and nobody is turned away.
    limits = {"AESTHETIC_DECODE_WORKERS": str(os.cpu_count()), "AESTHETIC_MAX_QUEUE": "1000"}
    stack = RunningStack(repository, directory, **limits)
    started = time.perf_counter()
    stack.start()
    try:
        figures: dict[str, Any] = {"start_s": time.perf_counter() - started, "pixels": {}}
        inputs = _pairs(64)
        for batch in plan.batches:
            body, header = _binary_request(_rows(inputs, 0, batch))
            send = _sender(stack.triton_url, f"/v2/models/{NETWORK.name}/infer", body, header)
            figures["pixels"][batch] = {
                "one_s": _one(plan, send),
                "images_per_s": _throughput(plan, send) * batch,
            }
        batch = min(8, plan.batches[-1])
        body, header = _binary_request(_rows(inputs, 0, batch))
        send = _sender(stack.triton_url, f"/v2/models/{NETWORK.name}/infer", body, header)
        most = max(figure["images_per_s"] for figure in figures["pixels"].values())
        figures["at_load"] = _at_load(plan, send, most * LOAD / batch) | {"batch": batch}
        figures["rest"] = {}
        for count in (1, 10):
            content = _rest_body(images, count)
            path = "/score" if count == 1 else "/score-batch"
            send = _sender(f"127.0.0.1:{stack.port}", path, content, {"Content-Type": "application/json"})
            figures["rest"][count] = {
                "one_s": _one(plan, send),
                "images_per_s": _throughput(plan, send) * count,
            }
        return figures
    finally:
        stack.stop()


def upstream(plan: Plan, directory: Path, images: list[Path]) -> dict[str, float]:
    """Measure upstream's `inference_rank` on the same device; median seconds an image."""
    from tests.parity.reference import Job, ask

    ranks = [(0, [0])] * 6 + [(0, list(range(10)))] * 6
    files = [str(images[place % len(images)]) for place in range(10)]
    weights = str(directory / "upstream.pt")
    answers = ask(
        Job([PROMPT], files, checkpoint=weights, seed=0, ranks=ranks, device=plan.device), directory
    )
    seconds = [float(answers[f"seconds_{index}"]) for index in range(len(ranks))]
    return {"1": statistics.median(seconds[1:6]), "10": statistics.median(seconds[7:]) / 10}


def report(plan: Plan, figures: dict[str, Any]) -> str:
    """Lay out what was measured."""
    name = (
        torch.cuda.get_device_name(plan.device) if plan.is_gpu else "a CPU, a TINY network: no figure counts"
    )
    lines = [
        f"{name}, torch {torch.__version__}",
        "",
        "| alone | load s | MiB | max | mean | images/s at batch |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for precision, found in figures["alone"].items():
        if isinstance(found, str):
            lines.append(f"| {precision} | failed: {found.strip().splitlines()[-1]} |")
            continue
        rates = ", ".join(f"{batch}: {rate:.0f}" for batch, rate in found["images_per_s"].items())
        errors = f"{found['max_difference']:.2g} | {found['mean_difference']:.2g}"
        lines.append(f"| {precision} | {found['load_s']:.1f} | {found['vram_mb']} | {errors} | {rates} |")
    found = figures["served"]
    if isinstance(found, str):
        return "\n".join([*lines, "", f"served: failed: {found}"])
    lines += [
        "",
        f"start to the first score: {found['start_s']:.1f} s",
        "",
        "| fp16 | one request, ms | images/s |",
    ]
    lines.append("|---|---|---|")
    for what, door in (("Triton, pixels", "pixels"), ("REST", "rest")):
        for batch, figure in found[door].items():
            row = f"{1000 * figure['one_s']:.1f} | {figure['images_per_s']:.0f}"
            lines.append(f"| {what}, {batch} | {row} |")
    load = found["at_load"]
    lines += ["", f"at {LOAD:.0%} load, requests of {load['batch']}: p50 {1000 * load['p50_s']:.1f} ms, "]
    lines[-1] += f"p99 {1000 * load['p99_s']:.1f} ms, {load['late']} of {load['requests']} sent late"
    if "upstream" in figures:
        lines.append(f"upstream inference_rank, seconds an image of 1 and of 10: {figures['upstream']}")
    return "\n".join(lines)


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | str:
    """Return what `work` returns, or its error: time on a GPU is short; the rest still counts."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


def _pairs(count: int) -> Inputs:
    """Return the built-in questions of several seeds, shuffled: pixels, token ids, mask."""
    parts = []
    for seed in range(-(-count // 100)):
        asked = questions.drawn(seed=seed)
        tokens, pictures = asked.rows()
        parts.append((asked.pixels[pictures], tokens.input_ids, tokens.attention_mask))
    order = np.random.default_rng(0).permutation(100 * len(parts))[:count]
    return tuple(np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True))


def _rows(inputs: Inputs, start: int, count: int) -> Inputs:
    return tuple(array[start : start + count] for array in inputs)


def _rate(plan: Plan, work: Callable[[], object], images: int) -> float:
    """Return images a second, by the median of many executions one after another."""
    seconds: list[float] = []
    work()
    until = time.perf_counter() + plan.seconds
    while not seconds or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return images / statistics.median(seconds)


def _binary_request(inputs: Inputs) -> tuple[bytes, dict[str, str]]:
    """Compose a request to Triton once, so that composing it costs the callers nothing."""
    tensors = [
        {
            "name": spec.name,
            "datatype": spec.dtype,
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for spec, array in zip(NETWORK.inputs, inputs, strict=True)
    ]
    head = json.dumps({"inputs": tensors}).encode()
    body = b"".join([head, *(np.ascontiguousarray(array).tobytes() for array in inputs)])
    return body, {"Inference-Header-Content-Length": str(len(head))}


def _rest_body(images: list[Path], count: int) -> bytes:
    sources = [
        {"image_base64": base64.b64encode(images[place % len(images)].read_bytes()).decode()}
        for place in range(count)
    ]
    return json.dumps({"prompt": PROMPT, **(sources[0] if count == 1 else {"candidates": sources})}).encode()


def _sender(address: str, path: str, body: bytes, header: dict[str, str]) -> Callable[[], None]:
    """Return a function that sends a request and waits; each thread keeps a connection alive."""
    own = threading.local()

    def send() -> None:
        if not hasattr(own, "connection"):
            own.connection = HTTPConnection(address, timeout=60)
        own.connection.request("POST", path, body, header)
        answer = own.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}: {text[:200]!r}")

    return send


def _one(plan: Plan, send: Callable[[], None]) -> float:
    """Return the median seconds of a request that has the service to itself."""
    return 1 / _rate(plan, send, 1)


def _throughput(plan: Plan, send: Callable[[], None]) -> float:
    """Return requests a second with `CALLERS` callers, each with its next request at once."""
    until = time.perf_counter() + plan.seconds
    done: list[float] = []

    def call() -> None:
        while time.perf_counter() < until:
            send()
            done.append(time.perf_counter())

    started = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        for caller in [pool.submit(call) for _ in range(CALLERS)]:
            caller.result()
    return len(done) / (max(done) - started)


def _at_load(plan: Plan, send: Callable[[], None], requests_per_s: float) -> dict[str, float]:
    """Send requests at random times, answered or not; count from those times."""
    chance, at, times = random.Random(0), 0.0, []
    while at < 2 * plan.seconds:
        at += chance.expovariate(requests_per_s)
        times.append(at)
    started = time.perf_counter() + 0.1
    late = 0

    def call(at: float) -> float:
        nonlocal late
        pause = started + at - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        elif pause < -0.005:
            late += 1  # every caller was busy: what follows counts from when it should have been sent
        send()
        return time.perf_counter() - started - at

    with ThreadPoolExecutor(8 * CALLERS) as pool:
        seconds = sorted(pool.map(call, times))
    return {
        "requests": len(seconds),
        "late": late,
        "p50_s": seconds[len(seconds) // 2],
        "p99_s": seconds[int(len(seconds) * 0.99)],
    }


if __name__ == "__main__":
    main()
