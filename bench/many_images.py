"""Compare `TritonScorer` with plain loops over Triton's own door.

    python -m bench.many_images

The demonstration model, so that decoding counts for as much as the network does; 1024 x 1024 JPEG
files. Connections and processes are there before anything is timed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

from bench.growth import write_pictures
from bench.served import PROMPT, demonstration, running
from bench.spread import interleaved, ratio
from imajin_aesthetic_client.triton import TritonScorer
from reward.cpus import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        subject = demonstration(Path(name))
        paths = write_pictures(Path(name), 1024, options.images)
        service = stack.enter_context(running(subject))
        works = _works(stack, f"127.0.0.1:{service.grpc_port}", paths, subject.max_rows)
        seconds = interleaved(works, rounds=options.rounds)
    print(f"{platform.machine()}, {available_cpus()} CPUs; {options.images} images, {options.rounds} rounds")
    print("| way | images a second | times as fast as the first |")
    print("|---|---|---|")
    first = next(iter(seconds.values()))
    for title, taken in seconds.items():
        print(f"| {title} | {options.images / statistics.median(taken):.1f} | {ratio(taken, first)} |")


def _works(stack: ExitStack, url: str, paths: list[Path], max_rows: int) -> dict[str, Callable[[], object]]:
    client = stack.enter_context(InferenceServerClient(url))

    def scorer(**options: int) -> Callable[[], object]:
        opened = TritonScorer(
            url, max_in_flight=options.get("in_flight", 4), decode_processes=options.get("processes", 0)
        )
        return partial(stack.enter_context(opened).score, paths, PROMPT)

    return {
        "a loop, one image a request": partial(_loop, client, paths, 1),
        f"a loop, {max_rows} images a request": partial(_loop, client, paths, max_rows),
        "`TritonScorer`": scorer(),
        "`TritonScorer(max_in_flight=1)`": scorer(in_flight=1),
        "`TritonScorer(decode_processes=2)`": scorer(processes=2),
    }


def _loop(client: InferenceServerClient, paths: list[Path], rows: int) -> None:
    for start in range(0, len(paths), rows):
        files = [path.read_bytes() for path in paths[start : start + rows]]
        inputs = []
        for name, values in (("IMAGE", files), ("PROMPT", [PROMPT.encode()] * len(files))):
            tensor = InferInput(name, [len(values), 1], "BYTES")
            tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(-1, 1))
            inputs.append(tensor)
        client.infer("image_reward", inputs).as_numpy("REWARD")


if __name__ == "__main__":
    main()
