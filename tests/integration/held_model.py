"""A published network that does nothing while a file exists, to make it as busy as a test needs."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from reward import manifest
from reward.contract import NETWORK
from reward.files import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODEL: Final = """
import pathlib, time
from reward.triton import NetworkModel

class TritonPythonModel(NetworkModel):
    def execute(self, requests):
        while pathlib.Path({mark!r}).exists():
            time.sleep(0.02)
        return super().execute(requests)
"""


def copy_with_brake(published: Path, directory: Path) -> Path:
    """Copy a repository and give version 1 of its network a brake."""
    repository = directory / "model_repository"
    shutil.copytree(published, repository, ignore=shutil.ignore_patterns("__pycache__"))
    version = repository / NETWORK.name / "1"
    content = manifest.read(version)
    model = version / "model.py"
    model.unlink()  # published files may be write-protected
    model.write_text(_MODEL.format(mark=str(_mark(repository))))
    files = {**content.files, model.name: sha256(model)}
    (version / manifest.FILE_NAME).unlink()
    manifest.write(dataclasses.replace(content, files=files), version)
    return repository


@contextmanager
def held(repository: Path) -> Iterator[None]:
    """Let no execution go on while the block runs."""
    _mark(repository).touch()
    try:
        yield
    finally:
        _mark(repository).unlink()


def _mark(repository: Path) -> Path:
    return repository.parent / "held"
