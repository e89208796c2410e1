"""The error codes of the interface, and the README's table of them."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re

import pytest

import frontend
from frontend.errors import DeadlineExceeded, ServiceError
from frontend.gpu.errors import GpuUnavailable
from frontend.http.errors import AllFailed, InvalidRequest
from frontend.http.problem import KINDS, kind, problem
from frontend.http.schemas import ErrorInfo, FailedCandidate
from frontend.images.errors import (
    DecoderStopped,
    ImageNotReached,
    ImageTooLarge,
    ImageUndecodable,
    ImageUnreachable,
)
from frontend.scoring.errors import Overloaded
from frontend.triton.errors import NotReady, Rejected, TimedOut, Unreachable
from tests.repository import CHECKOUT


def _tree(root: type[ServiceError]) -> set[type[ServiceError]]:
    return {root}.union(*(_tree(child) for child in root.__subclasses__()))


def test_the_readme_names_every_error() -> None:
    """The README's table has a row for each error code, with its status, and no other row."""
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d{3})[ ,]", (CHECKOUT / "README.md").read_text(), re.MULTILINE)
    assert {code: int(status) for code, status in rows} == {row.code: row.status for row in KINDS.values()}


def test_every_error_has_a_row_or_is_a_defect_on_purpose() -> None:
    """Every error class has a code of its own or of a base class.

    Only the few classes named here are answered 500.
    """
    for package in pkgutil.iter_modules(frontend.__path__, "frontend."):
        if package.ispkg:
            importlib.import_module(f"{package.name}.errors")
    ours = {error for error in _tree(ServiceError) if error.__module__.startswith("frontend.")}
    defects = {error.__name__ for error in ours if kind(error.__new__(error)).code == "internal"}
    assert defects == {
        *("ServiceError", "ImageError", "TritonError", "ScoringError", "HttpError"),
        *("DecoderStopped", "Rejected", "TooManyRows"),
    }


def test_errors_of_the_infrastructure_in_the_interfaces_terms() -> None:
    """Each package's errors become error codes, by their class or its nearest base class."""
    expected = [
        (Unreachable("x"), 503, "model_unavailable"),
        (NotReady("x"), 503, "model_unavailable"),
        (TimedOut("x"), 504, "deadline_exceeded"),
        (DeadlineExceeded("x"), 504, "deadline_exceeded"),
        (GpuUnavailable("x"), 503, "gpu_unavailable"),
        (ImageTooLarge("x"), 413, "image_too_large"),
        (Rejected("x"), 500, "internal"),
        (DecoderStopped("x"), 500, "internal"),
    ]
    for error, status, code in expected:
        assert kind(error)[:2] == (status, code)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Overloaded("x"), True),
        (NotReady("x"), True),
        (GpuUnavailable("x"), True),
        (DeadlineExceeded("x"), True),
        (ImageNotReached("x"), True),
        (ImageUnreachable("x"), False),
        (ImageUndecodable("x"), False),
        (InvalidRequest("x"), False),
        (Rejected("x"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_says_whether_coming_back_can_help(error: ServiceError, expected: bool) -> None:
    """Coming back can help against load, a model on its way, and a host that did not answer."""
    body = json.loads(bytes(problem(error, "abc", {}).body))
    assert body["retryable"] is expected


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        (("image_undecodable", "image_undecodable"), (422, "image_undecodable", False)),
        (("image_undecodable", "image_url_forbidden"), (422, "invalid_request", False)),
        (("image_too_large",), (422, "image_too_large", False)),
        (("image_unreachable!", "image_unreachable!"), (503, "image_unreachable", True)),
        (("image_unreachable!", "image_unreachable"), (422, "image_unreachable", False)),
        (("image_unreachable!", "deadline_exceeded!"), (503, "invalid_request", True)),
    ],
)
def test_a_batch_of_which_all_failed(failures: tuple[str, ...], expected: tuple[int, str, bool]) -> None:
    """The code that they share; 503 where every one may succeed later (marked by !), else 422."""
    failed = [
        FailedCandidate(
            index=index,
            id=None,
            error=ErrorInfo(code=name.rstrip("!"), detail="x", retryable=name.endswith("!")),
        )
        for index, name in enumerate(failures)
    ]
    answer = problem(AllFailed("no candidate could be scored", failed), "abc", {})
    body = json.loads(bytes(answer.body))
    assert (answer.status_code, body["code"], body["retryable"]) == expected
    assert body["status"] == answer.status_code
    assert len(body["failed"]) == len(failures)


def test_only_the_public_side_is_written() -> None:
    """The body has `detail` and never `internal`.

    `retry_after_s` becomes the header Retry-After, rounded up.
    """
    answer = problem(NotReady("public words", internal="private words", retry_after_s=1.2), "abc", {})
    body = json.loads(bytes(answer.body))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert (body["detail"], body["request_id"]) == ("public words", "abc")
    assert b"private" not in bytes(answer.body)
