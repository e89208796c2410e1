"""Compare the full-size seconds per image of this service and of the upstream package.

    make bench

The weights are random (seed 0), and the time does not depend on them. Both sides read the same 1024
x 1024 JPEG files. Upstream is called through `ImageReward.inference_rank`, this service through
`/score` and `/score-batch` with the cache off. One run measures upstream, REST, upstream and REST
again, and prints medians.
"""

from __future__ import annotations

import argparse
import base64
import platform
import statistics
import time
from pathlib import Path
from typing import Any, Final

import httpx
from PIL import Image
from skimage import data

from export.publish import Recipe, publish
from export.registry import Registry
from reward.runtimes.onnxruntime import available_cpus
from tests.integration.stack import RunningStack
from tests.parity.reference import Job, ask
from tests.pictures import PHOTOGRAPHS
from tests.repository import copy_repository

PROMPT: Final = "a painting of an ocean with clouds and birds, day time, low depth field effect"
REPEATS: Final = 3
BLOCKS: Final = 2


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--directory", type=Path, default=Path(".cache/bench"), help="kept between runs: 4 GB"
    )
    directory = parser.parse_args().directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    files = write_images(directory)
    checkpoint = directory / "random.pt"
    repository = directory / "model_repository"
    ranks = [(0, [0])] * REPEATS + [(0, list(range(10)))] * REPEATS
    if not checkpoint.exists():
        ask(Job([PROMPT], [], checkpoint=str(checkpoint), seed=0), directory)
    if not repository.exists():
        publish(Registry(copy_repository(repository)), Recipe(checkpoint, "random weights, seed 0"))
    theirs: dict[int, list[float]] = {1: [], 10: []}
    ours: dict[int, list[float]] = {1: [], 10: []}
    stack = RunningStack(repository, directory)
    for _ in range(BLOCKS):
        job = Job([PROMPT], [str(path) for path in files], checkpoint=str(checkpoint), ranks=ranks)
        answers = ask(job, directory)
        for index, (_, images) in enumerate(ranks):
            theirs[len(images)].append(float(answers[f"seconds_{index}"]) / len(images))
        stack.start()
        try:
            for count in (1, 10):
                ours[count] += [seconds / count for seconds in _rest(stack, files[:count])]
        finally:
            stack.stop()
    print(f"{platform.machine()}, {available_cpus()} CPUs; seconds per image, median of {BLOCKS * REPEATS}")
    print("| candidates | upstream | REST | ratio |")
    print("|---|---|---|---|")
    for count in (1, 10):
        upstream, rest = statistics.median(theirs[count]), statistics.median(ours[count])
        print(f"| {count} | {upstream:.3f} | {rest:.3f} | {upstream / rest:.2f} |")


def write_images(directory: Path) -> list[Path]:
    paths = []
    for name in PHOTOGRAPHS:
        path = directory / f"{name}.jpg"
        Image.fromarray(getattr(data, name)()).convert("RGB").resize((1024, 1024)).save(path, quality=90)
        paths.append(path)
    return paths


def _rest(stack: RunningStack, files: list[Path]) -> list[float]:
    sources = [{"image_base64": base64.b64encode(path.read_bytes()).decode()} for path in files]
    path = "/score" if len(sources) == 1 else "/score-batch"
    body: dict[str, Any] = dict(sources[0]) if len(sources) == 1 else {"candidates": sources}
    seconds = []
    with httpx.Client(base_url=stack.url, timeout=120) as client:
        for _ in range(REPEATS + 1):
            started = time.perf_counter()
            client.post(path, json={"prompt": PROMPT, **body}).raise_for_status()
            seconds.append(time.perf_counter() - started)
    return seconds[1:]  # the first one warms up


if __name__ == "__main__":
    main()
