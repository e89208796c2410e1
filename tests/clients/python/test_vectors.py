"""Both Python clients do with every scripted reply what clients/vectors.json says."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from imajin_aesthetic_client import AestheticError
from imajin_aesthetic_client.errors import CODES
from tests.clients.python.scripted import CASES, Script, body_of

if TYPE_CHECKING:
    import httpx

pytestmark = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])


def test_the_sync_client(case: dict[str, Any]) -> None:
    """Requests, waits, answer or error are the case's."""
    script = Script(case)
    with script.client() as client:
        try:
            found = script.ask(client)
        except AestheticError as error:
            found = error
    _compare(script, found)


async def test_the_async_client(case: dict[str, Any]) -> None:
    """Requests, waits, answer or error are the case's."""
    script = Script(case)
    async with script.async_client() as client:
        try:
            found = await script.ask(client)
        except AestheticError as error:
            found = error
    _compare(script, found)


def _compare(script: Script, found: Any) -> None:
    case = script.case
    if "error" in case:
        assert isinstance(found, AestheticError), found
        assert type(found) is CODES.get(case["error"]["code"], AestheticError)
        shown = {**vars(found), "failed": _plain(found.failed)}
        assert {key: shown[key] for key in case["error"]} == case["error"]
    elif isinstance(found, AestheticError):
        raise found
    else:
        assert _plain(found) == body_of(case["answer"])
    assert len(script.requests) == len(case["replies"])
    assert script.waits_s == pytest.approx(case["waits_s"])
    for request in script.requests:
        _compare_request(request, case.get("request", {}))
    _compare_request(script.requests[-1], case.get("last_request", {}))


def _plain(answer: Any) -> Any:
    """Turn dataclasses and tuples into what JSON has."""
    return json.loads(json.dumps(answer, default=dataclasses.asdict))


def _compare_request(request: httpx.Request, expected: dict[str, Any]) -> None:
    if "path" in expected:
        assert (request.method, request.url.path) == (expected["method"], expected["path"])
    for name, value in expected.get("headers", {}).items():
        assert request.headers.get(name) == value, name
    if "json" in expected:
        assert json.loads(request.content) == expected["json"]
