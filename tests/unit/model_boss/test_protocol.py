"""The headers of the Lua files agree with the code below them and with the Python callers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files

import pytest

from model_boss.protocol import SCRIPTS, Keys, Script, compose, source


@dataclass(frozen=True)
class Header:
    """What the comment at the top of a script says."""

    summary: str
    keys: tuple[str, ...]
    arguments: tuple[str, ...]
    replies: tuple[tuple[str, int], ...]
    """The words that replies begin with, and how many values follow; -1 for any number."""


def read_header(text: str) -> Header:
    comment = re.match(r"(?:--.*\n)+", text)
    assert comment, "a script begins with its header"
    lines = [line.removeprefix("--").removeprefix(" ") for line in comment[0].splitlines()]
    keys = next(line for line in lines if line.startswith("KEYS:"))
    first = next(place for place, line in enumerate(lines) if line.startswith("ARGV:"))
    arguments = " ".join(lines[first : lines.index("Returns:")])
    returns = lines[lines.index("Returns:") + 1 :]
    replies = []
    for line in returns:
        if not line.startswith("  "):
            break
        values = re.split(r"  +|\(", line.strip())[0].split(", ")
        replies.append((values[0], -1 if values[-1].endswith("...") else len(values) - 1))
    return Header(lines[0], _names(keys), _names(arguments), tuple(replies))


def _names(line: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in line.partition(":")[2].split(",") if name.strip())


def _code(text: str) -> str:
    return re.sub(r"--.*", "", text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
class TestHeader:
    def test_says_what_the_caller_sends(self, script: Script) -> None:
        """KEYS and ARGV of the header are those that Python sends, in the same order."""
        header = read_header(source(script.name))
        assert header.keys == Keys._fields
        assert header.arguments == script.arguments

    def test_says_what_the_code_unpacks(self, script: Script) -> None:
        """The Lua code gives ARGV the names of the header."""
        header = read_header(source(script.name))
        unpacked = re.search(r"local ([\w,\s]+) = unpack\(ARGV\)", source(script.name))
        names = tuple(name.strip() for name in unpacked[1].split(",")) if unpacked else ()
        assert names == header.arguments

    def test_says_what_the_code_returns(self, script: Script) -> None:
        """Every reply of the code is in the header with its length."""
        header = read_header(source(script.name))
        code = _code(source(script.name))
        returned: set[tuple[str, int]] = set()
        for first, rest in re.findall(r"return \{('\w+'|answer\(lease\))((?:, [^{}]+)?)\}", code):
            words = ("ok", "yield") if first.startswith("answer") else (first.strip("'"),)
            count = len(re.findall(r", (?![^()]*\))", rest))
            returned |= {(word, count) for word in words}
        if script.name == "status":  # built up line by line
            returned = {("table", -1)}
            assert "local reply = {'table', NOW, " in code
        assert returned == set(header.replies)

    def test_begins_with_one_sentence(self, script: Script) -> None:
        """The first line says what the script is for."""
        assert re.fullmatch(r"[A-Z][^.]+\.(?: .+)?", read_header(source(script.name)).summary)


def test_every_file_is_known() -> None:
    """The client calls every script in the folder."""
    there = {path.name for path in (files("model_boss") / "scripts").iterdir()}
    assert there == {f"{script.name}.lua" for script in SCRIPTS} | {"_clock.lua", "_ledger.lua"}


def test_every_script_is_composed_with_the_same_sweep() -> None:
    """All scripts forget expired leases by the same text, by Redis's own clock."""
    shared = f"{source('_clock')}\n{source('_ledger')}"
    for script in SCRIPTS:
        assert compose(script).startswith(shared)
        assert "sweep()" in _code(source(script.name))


def test_no_script_reads_the_time_but_through_the_clock() -> None:
    """Only `_clock.lua` asks Redis for the time and its identity.

    No argument carries the time of day.
    """
    for name in ("_ledger", *(script.name for script in SCRIPTS)):
        assert not re.search(r"'(TIME|INFO)'", source(name))
    sent = {argument for script in SCRIPTS for argument in script.arguments}
    assert {name for name in sent if "now" in name or "expires" in name} == set()


def test_the_keys_of_the_prelude_are_in_the_callers_order() -> None:
    """`_ledger.lua` unpacks KEYS in the order of `Keys`."""
    unpacked = re.search(r"local ([A-Z, ]+) = unpack\(KEYS\)", source("_ledger"))
    assert unpacked
    assert tuple(name.strip().lower() for name in unpacked[1].split(",")) == Keys._fields
