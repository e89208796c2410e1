"""Digests are always right, and that of a large file is computed once."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from reward import files
from reward.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really read.

    Every size counts as large, and the cache is the test's own.
    """
    names: list[str] = []
    digest = files.sha256

    def counted(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(files, "_REMEMBERED_BYTES", 1)
    monkeypatch.setattr(files, "sha256", counted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return names


def test_a_large_file_is_read_once_until_it_changes(tmp_path: Path, taken: list[str]) -> None:
    """Other content of the same length, written in place or renamed over it, is another file."""
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    assert [files.remembered_sha256(path) for _ in range(3)] == [hashlib.sha256(b"one").hexdigest()] * 3
    assert taken == ["weights"]
    for content in (b"two", b"six"):
        draft = tmp_path / "draft"
        draft.write_bytes(content)
        if content == b"two":
            path.write_bytes(content)
        else:
            draft.replace(path)
        assert files.remembered_sha256(path) == hashlib.sha256(content).hexdigest()
    assert taken == ["weights"] * 3


def test_a_digest_that_was_computed_is_remembered(tmp_path: Path, taken: list[str]) -> None:
    """`sha256` always reads the file; what it found need not be read once more."""
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    assert {files.sha256(path), files.sha256(path), files.remembered_sha256(path)} == {
        hashlib.sha256(b"one").hexdigest()
    }
    assert taken == ["weights"] * 2


def test_a_small_file_is_not_remembered(
    tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file is read each time, and nothing is written into the user's home."""
    monkeypatch.setattr(files, "_REMEMBERED_BYTES", 4)
    (tmp_path / "model.py").write_bytes(b"abc")
    for _ in range(2):
        files.remembered_sha256(tmp_path / "model.py")
    assert taken == ["model.py"] * 2
    assert not (tmp_path / "cache").exists()


def test_files_that_are_gone_are_forgotten(tmp_path: Path, taken: list[str]) -> None:
    """The memory does not grow with every version that ever existed."""
    for name in ("1", "2"):
        (tmp_path / name).write_bytes(b"x")
        files.remembered_sha256(tmp_path / name)
        (tmp_path / name).unlink()
    kept = json.loads((tmp_path / "cache" / "imajin-aesthetic" / "sha256.json").read_text())
    assert list(kept) == [str(tmp_path / "2")]
    assert taken == ["1", "2"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', "\udc80"])
def test_a_spoilt_memory_is_no_memory(tmp_path: Path, taken: list[str], content: str) -> None:
    """If the memory is damaged, the file is digested and remembered again."""
    memory = tmp_path / "cache" / "imajin-aesthetic" / "sha256.json"
    memory.parent.mkdir(parents=True)
    memory.write_bytes(content.encode(errors="surrogateescape"))
    (tmp_path / "weights").write_bytes(b"one")
    for _ in range(2):
        assert files.remembered_sha256(tmp_path / "weights") == hashlib.sha256(b"one").hexdigest()
    assert taken == ["weights"]


def test_without_a_place_to_remember_it_is_read_each_time(
    tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that is no directory makes nothing fail."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "weights").write_bytes(b"one")
    for _ in range(2):
        files.remembered_sha256(tmp_path / "weights")
    assert taken == ["weights"] * 2


def test_what_cannot_be_read_is_named(tmp_path: Path, taken: list[str]) -> None:
    """A file that cannot be read is named, as by `sha256`."""
    with pytest.raises(CheckpointError, match=r"none: cannot be read: No such file"):
        files.remembered_sha256(tmp_path / "none")
    assert taken == ["none"]
