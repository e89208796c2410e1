"""One call, from its request to its answer, without any input or output of its own.

`exchange` is a generator: it yields what is to be done (`Send` a request, `Wait`) and is sent the
outcome. The two clients do these things, one by blocking, one by awaiting.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from imajin_aesthetic_client.answers import FailedCandidate, read
from imajin_aesthetic_client.errors import (
    CODES,
    RETRYABLE_STATUSES,
    AestheticError,
    DeadlineExceeded,
    UnexpectedAnswer,
)
from imajin_aesthetic_client.retries import Retries, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

Answer = TypeVar("Answer")

TIMEOUT_HEADER: Final = "X-Request-Timeout-Ms"
_MAX_TIMEOUT_MS: Final = 999_999_999


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """What is asked, and what kind of answer there will be."""

    method: str
    path: str
    kind: type[Answer]
    body: dict[str, Any] | None = None
    statuses: frozenset[int] = frozenset({200})
    """With which there is an answer of `kind`."""


@dataclass(frozen=True)
class Send:
    """Send this request; the outcome is a `Reply`, or an `AestheticError` where none came."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes | None
    ends_at: float
    """By the exchange's clock."""


@dataclass(frozen=True)
class Wait:
    """Do nothing for a while; there is no outcome."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """A response, read to its end. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


Outcome: TypeAlias = "Reply | AestheticError | None"


def exchange(
    call: Call[Answer],
    *,
    timeout_s: float,
    retries: Retries,
    clock: Callable[[], float],
    random: Callable[[], float],
) -> Generator[Send | Wait, Outcome, Answer]:
    """Ask until there is an answer, no more attempt is allowed, or the time is over.

    Raises:
        AestheticError: the last attempt's.
    """
    if not 0 < timeout_s < math.inf:
        raise ValueError("timeout_s must be a positive number of seconds")
    ends_at = clock() + timeout_s
    content = None if call.body is None else json.dumps(call.body, allow_nan=False).encode()
    attempt = 1
    while True:
        outcome = yield _send(call, content, ends_at, ends_at - clock())
        if isinstance(outcome, Reply) and outcome.status in call.statuses:
            answer = _answer(call.kind, outcome)
            if answer is not None:
                return answer
        error = _problem(outcome) if isinstance(outcome, Reply) else outcome
        assert isinstance(error, AestheticError)
        wait_s = retries.wait_s(attempt, error.retry_after_s, random())
        if not error.retryable or attempt == retries.max_attempts or clock() + wait_s >= ends_at:
            raise error
        yield Wait(wait_s)
        attempt += 1


def too_late() -> DeadlineExceeded:
    """Say that the call's own time is over."""
    return DeadlineExceeded("no answer came within timeout_s")


def _send(call: Call[Answer], content: bytes | None, ends_at: float, remaining_s: float) -> Send:
    headers = {"Accept": "application/json"}
    if content is not None:
        headers["Content-Type"] = "application/json"
        headers[TIMEOUT_HEADER] = str(max(1, min(_MAX_TIMEOUT_MS, int(remaining_s * 1000))))
    return Send(call.method, call.path, headers, content, ends_at)


def _answer(kind: type[Answer], reply: Reply) -> Answer | None:
    """Read the answer; return None if an error stands in its place, as in a 503 of `/health`."""
    try:
        return read(kind, json.loads(reply.content))
    except (ValueError, TypeError, KeyError) as error:
        if reply.status != 200:
            return None
        raise UnexpectedAnswer(
            f"status 200, but no {kind.__name__}: {error}",
            status=200,
            request_id=reply.headers.get("x-request-id"),
        ) from error


def _problem(reply: Reply) -> AestheticError:
    """Read an error; one that is no problem document is somebody else's."""
    request_id = reply.headers.get("x-request-id")
    retry_after_s = parse_retry_after(reply.headers.get("retry-after"))
    by_status = reply.status in RETRYABLE_STATUSES
    try:
        document = json.loads(reply.content)
        code, detail = str(document["code"]), str(document["detail"])
        failed = tuple(read(FailedCandidate, item) for item in document.get("failed") or ())
    except (ValueError, TypeError, KeyError):
        return UnexpectedAnswer(
            f"status {reply.status}, and no error of imajin-aesthetic",
            status=reply.status,
            retryable=by_status,
            retry_after_s=retry_after_s,
            request_id=request_id,
        )
    retryable = document.get("retryable")
    return CODES.get(code, AestheticError)(
        detail,
        code=code,
        status=reply.status,
        retryable=retryable if isinstance(retryable, bool) else by_status,
        retry_after_s=retry_after_s,
        request_id=document.get("request_id") or request_id,
        failed=failed,
    )
