"""Versions appear whole or not at all."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from export.errors import CannotWrite, RegistryError
from export.registry import Registry
from reward import manifest
from tests.repository import copy_repository

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A repository without versions."""
    return Registry(copy_repository(tmp_path / "model_repository"))


def _publish(registry: Registry, name: str = "weights") -> int:
    with registry.publishing() as draft:
        content = manifest.Manifest(name, "0" * 64, "fp32", "onnxruntime", 20, "p", {}, {}, {}, "now")
        manifest.write(content, draft.directory)
    return draft.number


def test_versions_are_numbered_and_listed(registry: Registry) -> None:
    """Versions are numbered 1, 2, 3 and listed with their manifests."""
    assert registry.versions() == []
    assert [_publish(registry, name) for name in ("a", "b", "c")] == [1, 2, 3]
    assert [(v.number, v.manifest.name) for v in registry.versions()] == [(1, "a"), (2, "b"), (3, "c")]
    assert registry.version(2).manifest.name == "b"
    with pytest.raises(RegistryError, match="version 7 is not published"):
        registry.version(7)


def test_a_failed_publication_leaves_nothing(registry: Registry) -> None:
    """An exception during a publication leaves no directory, neither temporary nor numbered."""
    with pytest.raises(FileNotFoundError), registry.publishing() as draft:
        (draft.directory / "nowhere" / "network.onnx").write_bytes(b"half")
    assert registry.versions() == []
    assert _left_aside(registry) == []


def test_a_disk_that_takes_no_more_is_said_in_one_line(registry: Registry) -> None:
    """A full disk is reported with the system's own words and with what to do.

    Nothing is left behind.
    """
    with _no_file_above(1000), pytest.raises(CannotWrite) as refused, registry.publishing() as draft:
        (draft.directory / "network.onnx").write_bytes(bytes(2000))
    assert str(refused.value) == (
        f"{registry.directory(1).parent}: File too large; nothing has changed: "
        "make room on that disk and run the command again"
    )
    assert registry.versions() == []
    assert _left_aside(registry) == []


@contextmanager
def _no_file_above(max_bytes: int) -> Iterator[None]:
    """Make the system refuse writing beyond a size, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _left_aside(registry: Registry) -> list[str]:
    return [entry.name for entry in (registry.directory(1).parent / "configs").iterdir()]


def test_concurrent_publications_get_their_own_numbers(registry: Registry) -> None:
    """Eight publications at once become eight versions; none is lost or overwritten."""
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda i: _publish(registry, f"w{i}"), range(8)))
    assert sorted(numbers) == list(range(1, 9))
    names = {version.number: version.manifest.name for version in registry.versions()}
    assert [names[number] for number in numbers] == [f"w{i}" for i in range(8)]


def test_a_version_is_removed_whole(registry: Registry) -> None:
    """A removed version is gone from the list at once, and nothing of it is left."""
    for _ in range(2):
        _publish(registry)
    registry.remove(1)
    assert [version.number for version in registry.versions()] == [2]
    assert _left_aside(registry) == []


def test_another_directory_is_no_repository(tmp_path: Path) -> None:
    """A directory that is no repository is refused by its name."""
    with pytest.raises(RegistryError, match="not a model repository"):
        Registry(tmp_path)
