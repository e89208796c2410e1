"""Versions appear whole or not at all, and the served one changes in both configurations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from export.errors import RegistryError
from export.registry import Registry
from reward import manifest
from tests.repository import copy_repository

if TYPE_CHECKING:
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
    """1, 2, 3, with their manifests; the configured one is served."""
    assert registry.versions() == []
    assert [_publish(registry, name) for name in ("a", "b", "c")] == [1, 2, 3]
    assert [(v.number, v.manifest.name, v.served) for v in registry.versions()] == [
        (1, "a", True),
        (2, "b", False),
        (3, "c", False),
    ]


def test_a_failed_publication_leaves_nothing(registry: Registry) -> None:
    """An exception in the middle leaves no directory, temporary or numbered."""
    before = sorted(registry.directory(1).parent.iterdir())
    with pytest.raises(FileNotFoundError), registry.publishing() as draft:
        (draft.directory / "nowhere" / "network.onnx").write_bytes(b"half")
    assert sorted(registry.directory(1).parent.iterdir()) == before


def test_concurrent_publications_get_their_own_numbers(registry: Registry) -> None:
    """Eight at once are eight versions, none lost or overwritten."""
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda i: _publish(registry, f"w{i}"), range(8)))
    assert sorted(numbers) == list(range(1, 9))
    names = {version.number: version.manifest.name for version in registry.versions()}
    assert [names[number] for number in numbers] == [f"w{i}" for i in range(8)]


def test_promotion_and_rollback(registry: Registry) -> None:
    """Promotion rewrites both configurations, rollback returns to the version before."""
    for _ in range(3):
        _publish(registry)
    registry.promote(2)
    registry.promote(3)
    ensemble = registry.repository / "image_reward" / "config.pbtxt"
    assert registry.served() == 3
    assert "model_version: 3" in ensemble.read_text()
    assert registry.rollback() == 2
    assert registry.served() == 2
    assert "model_version: 2" in ensemble.read_text()
    assert ensemble.read_text().count("model_version: 1") == 1  # preprocessing keeps its own
    with pytest.raises(RegistryError, match="no version was promoted before"):
        registry.rollback()


def test_only_published_versions_are_promoted(registry: Registry) -> None:
    """A number that is not there, or a directory without a manifest, is refused and nothing changes."""
    _publish(registry)
    registry.directory(7).mkdir()
    for number in (2, 7):
        with pytest.raises(RegistryError, match=f"version {number} is not published"):
            registry.promote(number)
    assert registry.served() == 1


def test_another_directory_is_no_repository(tmp_path: Path) -> None:
    """It is refused by name."""
    with pytest.raises(RegistryError, match="not a model repository"):
        Registry(tmp_path)
