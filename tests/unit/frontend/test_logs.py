"""Each request is one line of JSON without secrets."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frontend.logs import FloodLimit, JsonFormatter


def _line(message: str, **fields: object) -> dict[str, object]:
    record = logging.LogRecord("x", logging.INFO, "x", 1, message, None, None)
    record.fields = fields
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, object] = json.loads(line)
    return parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:pass@host/p", "http://…@host/p"),
        ("at https://u@host:81/p?token=1&x=2 failed", "at https://…@host:81/p?… failed"),
        ("https://host/p#fragment", "https://host/p?…"),
        ("'https://a:b@c@host/?q' and http://host/plain", "'https://…@host/?…' and http://host/plain"),
        ("nothing? to hide @ all", "nothing? to hide @ all"),
    ],
)
def test_urls_lose_their_secrets(text: str, expected: str) -> None:
    """User names, passwords and queries are removed from URLs wherever they stand."""
    line = _line(text, internal=text, status=200)
    assert (line["message"], line["internal"], line["status"]) == (expected, expected, 200)


def test_a_traceback_is_one_line() -> None:
    """A traceback is a field of its one line, and the URLs in it are redacted."""

    def fail() -> None:
        raise ValueError("http://user:pass@host/?secret\nsecond line")

    try:
        fail()
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "failed", None, sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["traceback"]
    assert "http://…@host/?…" in json.loads(line)["traceback"]


def test_a_line_that_cannot_be_written_is_lost_and_no_more() -> None:
    """A log line that cannot be written, as on a full disk, is lost and does no other harm.

    A later flush, such as the one before a fork, does not fail.
    """
    script = (
        "import sys\n"
        "from frontend import logs\n"
        "logs.let_lines_be_lost()\n"
        "logs.configure()\n"
        "logs.log_request(status=200)\n"
        "sys.stderr.flush()\n"
        "print('on')\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_a_reader_who_stands_still_holds_nobody_up() -> None:
    """If the reader of a pipe stops reading, as at a paused terminal, lines are lost.

    The service goes on.
    """
    script = (
        "from frontend import logs\n"
        "logs.let_lines_be_lost()\n"
        "logs.configure()\n"
        "for _ in range(2000):\n"
        "    logs.log_request(status=200, detail='…' * 2000)\n"
        "print('on')\n"
    )
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_what_repeats_is_logged_once_a_second() -> None:
    """A statement logs five lines at once, then one a second, which tells how many it left out.

    The lines of requests are all written.
    """

    def record(created_s: float, *, name: str = "uvicorn.error", line: int = 1) -> logging.LogRecord:
        made = logging.LogRecord(name, logging.WARNING, "server.py", line, "Invalid", None, None)
        made.created = created_s
        return made

    limit = FloodLimit()
    assert [limit.filter(record(10.0)) for _ in range(7)] == [True] * 5 + [False] * 2
    assert limit.filter(record(10.5, line=2))
    assert all(limit.filter(record(10.5, name="imajin_aesthetic.requests")) for _ in range(9))
    later = record(11.0)
    assert limit.filter(later)
    assert vars(later)["fields"] == {"left_out": 2}
    assert [limit.filter(record(at_s)) for at_s in (11.5, 12.0, 12.9)] == [False, True, False]
    assert [limit.filter(record(100.0)) for _ in range(6)] == [True] * 5 + [False]
