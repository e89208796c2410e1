"""Structured logs: one line of JSON each, without images, prompts or secrets."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import select
import sys
import time
from typing import Any, Final

_USERINFO: Final = re.compile(r"(\w+://)[^\s/?#@]*(?:@[^\s/?#@]*)*@")
_QUERY: Final = re.compile(r"(\w+://[^\s?#'\"]*)[?#][^\s'\"]*")
_LOGGER: Final = logging.getLogger("imajin_aesthetic.requests")
_AT_ONCE: Final = 5
"""Lines that a statement that was quiet may log before it is held to one a second."""


class JsonFormatter(logging.Formatter):
    """Write a record as one line of JSON; `extra={"fields": {...}}` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({name: _redacted(value) for name, value in line.items()}, ensure_ascii=False)


def _redacted(value: object) -> object:
    """Remove user names, passwords and queries from URLs: the text of an error may quote one."""
    if not isinstance(value, str):
        return value
    return _QUERY.sub(r"\1?…", _USERINFO.sub(r"\1…@", value))


class FloodLimit(logging.Filter):
    """Let a statement log a few lines at once, then one a second, with how many were left out.

    A client can make a server log as often as it likes, of connections that break off for example.
    A statement that tells how something goes on, as a lease's states do, is quick now and then.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # when the next is due, how many not

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide on a record."""
        if record.name == _LOGGER.name:
            return True  # a request's line
        place = record.pathname, record.lineno
        due_s, left_out = self._seen.get(place, (-math.inf, 0))
        if due_s - record.created > _AT_ONCE - 1:
            self._seen[place] = due_s, left_out + 1
            return False
        self._seen[place] = max(due_s, record.created) + 1, 0
        if left_out:
            record.fields = {**getattr(record, "fields", {}), "left_out": left_out}
        return True


def let_lines_be_lost() -> None:
    """Write standard error unbuffered, so that a line that cannot be written is just lost.

    A full disk or a closed pipe refuses a line. A buffer would keep it and fail again at the next
    flush, and multiprocessing flushes before it starts a worker. A line that a pipe or a paused
    terminal does not take at once is lost as well: nobody waits for it.
    """
    raw = _Lossy(sys.stderr.fileno(), "w", closefd=False)
    sys.stderr = io.TextIOWrapper(raw, errors="backslashreplace", write_through=True)


class _Lossy(io.FileIO):
    def write(self, data: Any) -> int:  # noqa: ANN401 - whatever is bytes
        whole = memoryview(data).cast("B")
        # What a pipe takes for certain when it takes anything.
        for start in range(0, len(whole), select.PIPE_BUF):
            if not select.select([], [self], [], 0)[1]:
                break
            super().write(whole[start : start + select.PIPE_BUF])
        return len(whole)


def configure() -> None:
    """Send everything of this process to standard error in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(FloodLimit())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # `log_request` says more


def log_request(**fields: object) -> None:
    """Write the log line of a request; only here does an error's internal side appear."""
    kept = {name: value for name, value in fields.items() if value is not None}
    status = fields["status"]
    failed = isinstance(status, int) and status >= 500
    _LOGGER.log(logging.ERROR if failed else logging.INFO, "request", extra={"fields": kept})
