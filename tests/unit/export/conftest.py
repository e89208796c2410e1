"""A version for native backends, whose graph takes seconds to export."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from tests.once import made_once

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def native_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network in fp16, its native graph and its pairs; change nothing in it."""
    return made_once(tmp_path_factory, "native-version", _write)


def _write(directory: Path) -> Path:
    import torch

    from export import questions
    from export.native_graph import write_native_graph, write_pairs
    from reward import manifest
    from reward.files import sha256
    from tests.gpu_version import SEED, write_gpu_version
    from tests.small import small_network

    version = write_gpu_version(directory / "1", "fp16")
    write_native_graph(small_network(SEED).to_precision(torch.float16), version)
    write_pairs(small_network(SEED), questions.drawn(), version)
    content = manifest.read(version)
    files = {file.name: sha256(file) for file in version.iterdir() if file.name != manifest.FILE_NAME}
    manifest.write(dataclasses.replace(content, files=files), version)
    return version
