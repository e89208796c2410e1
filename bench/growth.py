"""How time grows: with the batch, the image, the callers and the versions loaded; where it goes."""

from __future__ import annotations

import io
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from PIL import Image
from skimage import data

from bench.processes import core_ms, memory_mb, stages
from bench.served import running
from bench.spread import interleaved, quarters
from bench.ways import NETWORK_ALONE, ONE_PROCESS, REST, TRITON_FILES, TRITON_PIXELS, ways
from export.deploy import Deployer, Manner
from tests.pictures import PHOTOGRAPHS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.served import Subject
    from bench.ways import Way
    from tests.integration.stack import RunningStack

    Table = dict[str, dict[str, tuple[float, float, float]]]
    """Row -> column -> quarters."""

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
SIZES: Final = (256, 512, 1024, 2048)
CALLERS: Final = (1, 2, 4, 8, 16)
REST_ROWS: Final = 10


def pictures(size: int, count: int) -> list[bytes]:
    """Encode photographs as JPEG files of size x size, each with a pixel of its own."""
    files = []
    for index in range(count):
        name = PHOTOGRAPHS[index % len(PHOTOGRAPHS)]
        image = Image.fromarray(getattr(data, name)()).convert("RGB").resize((size, size))
        image.putpixel((index % size, 0), (index, 0, 0))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def write_pictures(directory: Path, size: int, count: int) -> list[Path]:
    """Write such files, and return their paths."""
    paths = [directory / f"{number}.jpg" for number in range(count)]
    for path, file in zip(paths, pictures(size, count), strict=True):
        path.write_bytes(file)
    return paths


def with_batch(subject: Subject, stack: RunningStack, *, rounds: int) -> Table:
    """Measure milliseconds an image by the rows of one request: 512 x 512 JPEG files."""
    files = pictures(512, min(BATCHES[-1], subject.max_rows))
    every = ways(subject, stack, files)
    table: Table = {}
    for rows in (size for size in BATCHES if size <= len(files)):
        names = [NETWORK_ALONE, ONE_PROCESS, TRITON_PIXELS, TRITON_FILES]
        names += [REST] if rows <= REST_ROWS else []
        table[str(rows)] = _ms_an_image({name: every[name] for name in names}, files[:rows], rounds)
    return table


def with_size(subject: Subject, stack: RunningStack, *, rounds: int) -> Table:
    """Measure milliseconds an image by its side in pixels: four JPEG files a request."""
    table: Table = {}
    for size in SIZES:
        files = pictures(size, 4)
        every = ways(subject, stack, files)
        table[str(size)] = _ms_an_image({name: every[name] for name in (TRITON_FILES, REST)}, files, rounds)
    return table


def with_callers(subject: Subject, stack: RunningStack, *, rounds: int) -> Table:
    """Measure milliseconds an image by the callers who ask at the same time, one image each."""
    files = pictures(512, 4)
    every = ways(subject, stack, files)
    table: Table = {}
    for callers in CALLERS:
        with ThreadPoolExecutor(callers) as threads:
            works = {
                name: partial(_ask_together, threads, every[name], files, callers)
                for name in (TRITON_FILES, REST)
            }
            seconds = interleaved(works, rounds=rounds)
        found = {name: [1000 * one / (4 * callers) for one in times] for name, times in seconds.items()}
        table[str(callers)] = {name: quarters(times) for name, times in found.items()}
    return table


def with_versions(subject: Subject, *, rounds: int) -> Table:
    """Measure REST's milliseconds an image and Triton's MiB by the versions that are loaded."""
    registry = subject.registry
    before = registry.version().number
    deployer = Deployer(registry, None, Manner(who="bench"))
    files = pictures(512, 4)
    copies: list[int] = []
    table: Table = {}
    try:
        for loaded in (1, 2, 3):
            with running(subject) as stack:
                found = _ms_an_image({REST: ways(subject, stack, files)[REST]}, files, rounds)
                memory = memory_mb(pid for pids in stages(stack).values() for pid in pids)
            table[str(loaded)] = {**found, "MiB of memory": (memory, memory, memory)}
            if loaded < 3:
                copies.append(_copy(subject, before))
                # The one that is asked for none of the questions costs only memory.
                share: dict[str, Any] = {"canary" if loaded == 1 else "shadow": 0.000_001}
                deployer.promote(copies[-1], force=True, is_tried=True, **share)
    finally:
        deployer.promote(before, force=True, is_tried=True)
        for number in copies:
            shutil.rmtree(registry.directory(number))
    return table


def by_stage(subject: Subject, stack: RunningStack, *, images: int) -> Table:
    """Measure the processor time of an image, in ms, by stage and door: 512 x 512 JPEG files."""
    files = pictures(512, REST_ROWS)
    every = ways(subject, stack, files)
    table: Table = {}
    for name, rows in ((REST, 1), (REST, REST_ROWS), (TRITON_FILES, 1), (TRITON_PIXELS, 1)):
        every[name](files[:rows])
        requests = math.ceil(images / rows)
        scored = requests * rows
        parts = stages(stack)
        before = {stage: core_ms(pids) for stage, pids in parts.items()}
        started = time.perf_counter()
        for request in range(requests):
            every[name]([files[(request + row) % len(files)] for row in range(rows)])
        took_ms = 1000 * (time.perf_counter() - started) / requests
        used = {stage: (core_ms(pids) - before[stage]) / scored for stage, pids in parts.items()}
        label = name if rows == 1 else f"{name}, {rows} at once"
        table[label] = {stage: (ms, ms, ms) for stage, ms in used.items()}
        table[label]["time until the answer"] = (took_ms, took_ms, took_ms)
    return table


def _ms_an_image(chosen: dict[str, Way], files: Sequence[bytes], rounds: int) -> dict[str, Any]:
    works = {name: partial(way, files) for name, way in chosen.items()}
    seconds = interleaved(works, rounds=rounds)
    return {name: quarters([1000 * one / len(files) for one in times]) for name, times in seconds.items()}


def _ask_together(threads: ThreadPoolExecutor, way: Way, files: Sequence[bytes], callers: int) -> None:
    """Let each caller ask four times, an image at a time."""
    singles = [[files[index % len(files)]] for index in range(4 * callers)]
    list(threads.map(way, singles))


def _copy(subject: Subject, number: int) -> int:
    with subject.registry.publishing() as draft:
        shutil.copytree(subject.registry.directory(number), draft.directory, dirs_exist_ok=True)
    return draft.number
