"""The file of API keys."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from frontend.http.keys import KeyRing, KeysInvalid, key_line

if TYPE_CHECKING:
    from pathlib import Path

KEY = "a key of sufficient length"


def _write(path: Path, text: str) -> None:
    """Replace the file as an editor does, so that it is never half written."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)  # noqa: PTH105


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    _write(path, f"# who may call\n\n{key_line('pipeline', KEY)}  # the quality gate\n")
    return path


def test_a_key_has_a_name(file: Path) -> None:
    """A key in the file is known by its name; any other key is not, nor is a key's digest."""
    keys = KeyRing(file)
    assert keys.name_of(KEY.encode()) == "pipeline"
    for other in (b"", b"another key", KEY.upper().encode(), file.read_bytes(), b"\xff\xfe"):
        assert keys.name_of(other) is None
    assert KEY not in file.read_text()


def test_two_keys_of_one_name(file: Path) -> None:
    """Two keys may have one name, so that both are valid while a key is being changed."""
    _write(file, f"{key_line('a', KEY)}\n{key_line('a', 'new ' + KEY)}\n")
    keys = KeyRing(file)
    assert [keys.name_of(key.encode()) for key in (KEY, "new " + KEY)] == ["a", "a"]


def test_a_change_counts_at_once(file: Path) -> None:
    """A removed key is refused, and an added key accepted, as soon as the file changes."""
    keys = KeyRing(file)
    _write(file, key_line("other", "another key, long enough") + "\n")
    assert keys.name_of(KEY.encode()) is None
    assert keys.name_of(b"another key, long enough") == "other"


def test_a_change_that_cannot_be_read_is_none(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged or missing file leaves the keys as they were.

    This is logged once, with the line's number and without its text.
    """
    keys = KeyRing(file)
    _write(file, f"{key_line('x', KEY)}\nsecret in plain text\n")
    assert keys.name_of(KEY.encode()) == "pipeline"
    assert keys.name_of(KEY.encode()) == "pipeline"
    assert [record.getMessage().count("line 2") for record in caplog.records] == [1]
    assert "secret" not in caplog.text
    file.unlink()
    assert keys.name_of(KEY.encode()) == "pipeline"
    _write(file, "")
    assert keys.name_of(KEY.encode()) is None


@pytest.mark.parametrize(
    "text", ["name", "name:abc", "na me:" + "0" * 64, ":" + "0" * 64, "name:" + "g" * 64]
)
def test_a_file_that_is_wrong_at_the_start(file: Path, text: str) -> None:
    """At the start, a file that cannot be read in full is an error."""
    _write(file, text)
    with pytest.raises(KeysInvalid, match="line 1"):
        KeyRing(file)
    file.unlink()
    with pytest.raises(KeysInvalid, match="cannot be read"):
        KeyRing(file)


def test_the_tool_makes_a_line(file: Path) -> None:
    """`hash-key NAME` reads a key from standard input and prints its line for the file.

    Bad names and short keys are refused.
    """

    def run(name: str, key: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "frontend", "hash-key", name]
        return subprocess.run(command, input=key, capture_output=True, text=True, timeout=60, check=False)

    done = run("tool", KEY + "\n")
    assert done.returncode == 0
    assert done.stderr == "the key is read from standard input\n"
    _write(file, done.stdout)
    assert KeyRing(file).name_of(KEY.encode()) == "tool"
    for name, key in (("a name", KEY), ("tool", "short")):
        refused = run(name, key)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith("error: ")
        assert refused.stdout == ""


@pytest.mark.parametrize("typed", [KEY, ""])
def test_the_tool_asks_at_a_terminal(file: Path, typed: str) -> None:
    """What is typed is not shown; Enter alone makes a key, which is shown, once."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "frontend", "hash-key", "typed"],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    while b"for a new one: " not in shown:  # what is typed before is thrown away
        shown += os.read(screen, 1000)
    os.write(screen, typed.encode() + b"\n")
    line, _ = process.communicate(timeout=60)
    with suppress(OSError):  # how a terminal says that everything is read
        while part := os.read(screen, 1000):
            shown += part
    os.close(screen)
    _write(file, line.decode())
    new = re.search(rb"shown only now: (\S+)", shown)
    assert bool(new) == (not typed)
    assert KeyRing(file).name_of(new[1] if new else KEY.encode()) == "typed"
    assert KEY.encode() not in shown
