"""Compare `TritonScorer` with plain loops over Triton's own door.

    python -m bench.many_images

The demonstration model, so that decoding counts for as much as the network does; 1024 x 1024 JPEG
files. Each block measures every way once, one after the other; medians are printed. A way that
prepares something (connections, processes) has done so before it is timed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

from bench.growth import write_pictures
from bench.served import PROMPT
from imajin_aesthetic_client.triton import TritonScorer
from reward.runtimes.onnxruntime import available_cpus
from tests.integration.stack import RunningStack
from tests.repository import CHECKOUT, copy_repository

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ROWS: Final = 64


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        paths = write_pictures(directory, 1024, options.images)
        service = _start(directory)
        stack.callback(service.stop)
        seconds: dict[str, list[float]] = {}
        ways = _ways(stack, f"127.0.0.1:{service.grpc_port}")
        for way in ways.values():
            way(paths[:8])
        for _ in range(options.blocks):
            for title, way in ways.items():
                started = time.perf_counter()
                way(paths)
                seconds.setdefault(title, []).append(time.perf_counter() - started)
    print(f"{platform.machine()}, {available_cpus()} CPUs; {options.images} images, {options.blocks} blocks")
    print("| way | images a second | times the first |")
    print("|---|---|---|")
    first = statistics.median(next(iter(seconds.values())))
    for title, taken in seconds.items():
        median = statistics.median(taken)
        print(f"| {title} | {options.images / median:.1f} | {first / median:.2f} |")


def _start(directory: Path) -> RunningStack:
    repository = copy_repository(directory / "model_repository")
    publish = ["-m", "export", "--repository", str(repository), "ensure", "--model", "demo"]
    subprocess.run([sys.executable, *publish], check=True, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    service = RunningStack(repository, directory)
    service.start()
    return service


def _ways(stack: ExitStack, url: str) -> dict[str, Callable[[list[Path]], Any]]:
    plain = stack.enter_context(InferenceServerClient(url))

    def loop(rows: int) -> Callable[[list[Path]], None]:
        def ask(paths: list[Path]) -> None:
            for start in range(0, len(paths), rows):
                _infer(plain, paths[start : start + rows])

        return ask

    def scorer(max_in_flight: int = 4, decode_processes: int = 0) -> Callable[[list[Path]], Any]:
        scorer = TritonScorer(url, max_in_flight=max_in_flight, decode_processes=decode_processes)
        stack.enter_context(scorer)
        return lambda paths: scorer.score(paths, PROMPT)

    return {
        "a loop, one image a request": loop(1),
        f"a loop, {MAX_ROWS} images a request": loop(MAX_ROWS),
        "TritonScorer": scorer(),
        "TritonScorer(max_in_flight=1)": scorer(max_in_flight=1),
        "TritonScorer(decode_processes=2)": scorer(decode_processes=2),
    }


def _infer(client: InferenceServerClient, paths: list[Path]) -> None:
    inputs = []
    for name, values in (
        ("IMAGE", [path.read_bytes() for path in paths]),
        ("PROMPT", [PROMPT.encode()] * len(paths)),
    ):
        tensor = InferInput(name, [len(values), 1], "BYTES")
        tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(-1, 1))
        inputs.append(tensor)
    client.infer("image_reward", inputs).as_numpy("REWARD")


if __name__ == "__main__":
    main()
