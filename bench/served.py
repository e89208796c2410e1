"""What is measured: a repository at full size or with the demonstration model, and its stack."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.http import InferenceServerClient

from export.choose import DEMO_DIRECTORY, install
from export.deploy import Deployer, Manner
from export.publish import Recipe, publish
from export.registry import Registry
from reward.contract import ADMIN_HEADER
from tests.integration.stack import RunningStack
from tests.parity.reference import Job, ask
from tests.repository import copy_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT: Final = "a painting of an ocean with clouds and birds, day time, low depth field effect"
PLAIN: Final = "plain"


@dataclass(frozen=True)
class Subject:
    """A published model."""

    name: str
    registry: Registry
    directory: Path
    checkpoint: Path | None
    """What upstream can read; None for the demonstration model."""

    beside: int | None = None
    """Another version that REST is asked for, to be compared with the one in production."""

    @property
    def max_rows(self) -> int:
        """Return how many rows one request may have."""
        return self.registry.version().manifest.max_cpu_rows


def demonstration(directory: Path) -> Subject:
    """Install the demonstration model, anew."""
    repository = directory / "demo" / "model_repository"
    shutil.rmtree(repository, ignore_errors=True)
    repository.parent.mkdir(parents=True, exist_ok=True)
    registry = Registry(copy_repository(repository))
    _serve(registry, install(registry, DEMO_DIRECTORY))
    return Subject("the demonstration model", registry, directory / "demo", None)


def full_size(directory: Path, precision: str, beside: str | None = None) -> Subject:
    """Publish a network of full size with random weights (seed 0), unless an earlier run did.

    `beside` is the precision of a second version, which is loaded, too.
    """
    checkpoint, repository = directory / "random.pt", directory / "model_repository"
    if not checkpoint.exists():
        ask(Job([PROMPT], [], checkpoint=str(checkpoint), seed=0), directory)
    if not repository.exists():
        copy_repository(repository)
    registry = Registry(repository)
    number = _published(registry, checkpoint, precision)
    other = None if beside is None else _published(registry, checkpoint, beside)
    _serve(registry, number, other)
    return Subject(f"full size, {precision}, random weights", registry, directory, checkpoint, other)


@contextmanager
def running(subject: Subject, *, plain: bool = False) -> Iterator[RunningStack]:
    """Have the stack running; with `plain` a plain Python model beside ours in the same Triton."""
    key_file = subject.directory / "admin.key"
    repository = subject.registry.repository
    shutil.rmtree(repository / PLAIN, ignore_errors=True)
    if plain:
        _write_plain(subject)
    workers = os.environ.get("AESTHETIC_DECODE_WORKERS", "")  # so many as a user has, if none are asked for
    stack = RunningStack(
        repository,
        subject.directory,
        arguments=[f"--admin-key-file={key_file}"],
        AESTHETIC_DECODE_WORKERS=workers,
    )
    stack.start()
    try:
        if plain:
            headers = {ADMIN_HEADER: key_file.read_text().strip()}
            with InferenceServerClient(stack.triton_url, network_timeout=600) as client:
                client.load_model(PLAIN, headers=headers)
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(repository / PLAIN, ignore_errors=True)


def _published(registry: Registry, checkpoint: Path, precision: str) -> int:
    wanted = [one.number for one in registry.versions() if one.manifest.precision == precision]
    recipe = Recipe(checkpoint, "random weights, seed 0", precision=precision)
    return wanted[-1] if wanted else publish(registry, recipe)


def _serve(registry: Registry, number: int, beside: int | None = None) -> None:
    deployer = Deployer(registry, None, Manner(who="bench"))
    deployer.promote(number, force=True, is_tried=True)
    if beside is not None:  # loaded, and asked only if a request names it
        deployer.promote(beside, canary=0.000_001, force=True, is_tried=True)


def _write_plain(subject: Subject) -> None:
    target = subject.registry.repository / PLAIN
    shutil.copytree(Path(__file__).with_name("plain_model"), target)
    path = target / "config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    dimensions = subject.registry.version().manifest.dimensions
    config.parameters["dimensions"].string_value = json.dumps(dimensions)
    config.max_batch_size = subject.max_rows
    path.write_text(text_format.MessageToString(config))
