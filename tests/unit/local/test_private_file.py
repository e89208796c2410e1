"""Files that hold a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local.errors import LocalError
from local.private_file import read_or_make_key

if TYPE_CHECKING:
    from pathlib import Path


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """A key that is not there is made for its user alone, and read from then on."""
    path = tmp_path / "new" / "admin.key"
    key = read_or_make_key(path)
    assert len(key) >= 32
    assert read_or_make_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        ("", 0o600, "a key has letters"),
        ("two words\n", 0o600, "a key has letters"),
        ("schlüssel\n", 0o600, "cannot be read"),
        ("good\n", 0o644, "others can read this key"),
    ],
)
def test_what_is_no_secret_key_is_refused(tmp_path: Path, content: str, mode: int, why: str) -> None:
    """An empty key would open Triton to everybody, and one that others read is no secret."""
    path = tmp_path / "admin.key"
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(LocalError, match=why):
        read_or_make_key(path)
    assert path.read_text(encoding="utf-8") == content
