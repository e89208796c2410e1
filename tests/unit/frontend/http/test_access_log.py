"""The log line of each request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.responses import PlainTextResponse

from frontend.http.access_log import AccessLogMiddleware
from frontend.http.version_prefix import VersionPrefixMiddleware
from frontend.metrics import Metrics
from frontend.traces import Traces

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


@pytest.mark.parametrize(
    ("path", "statuses", "logged"),
    [
        ("/health/ready", [503, 503, 200, 200], []),
        ("/health/live", [200, 200], []),
        ("/health/ready", [200, 503, 503, 200, 200], [503, 200]),
        ("/health", [200, 200], [200, 200]),
    ],
)
async def test_probes_leave_a_line_only_where_they_find_a_change(
    caplog: pytest.LogCaptureFixture, path: str, statuses: list[int], logged: list[int]
) -> None:
    """Supervisors ask all the time, and a service that starts is not ready: neither is news.

    A probe that fails after it had succeeded is, and so is the end of the failures.
    """
    answers = iter(statuses)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("", next(answers))(scope, receive, send)

    caplog.set_level(logging.INFO)
    transport = httpx.ASGITransport(AccessLogMiddleware(answer, metrics=Metrics(), traces=Traces()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in statuses:
            await client.get(path)
    fields = [vars(record)["fields"] for record in caplog.records if hasattr(record, "fields")]
    assert [line["status"] for line in fields] == logged


async def test_both_names_of_a_path_are_counted_as_one(caplog: pytest.LogCaptureFixture) -> None:
    """The log and the metrics name the endpoint without the interface's version."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(scope["path"])(scope, receive, send)

    caplog.set_level(logging.INFO)
    metrics = Metrics()
    transport = httpx.ASGITransport(
        VersionPrefixMiddleware(AccessLogMiddleware(answer, metrics=metrics, traces=Traces()))
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/info", "/v1/info"):
            assert (await client.get(path)).text == "/info"
    assert 'aesthetic_requests_total{code="200",endpoint="/info"} 2.0' in metrics.render().decode()
    fields = [vars(record)["fields"] for record in caplog.records if hasattr(record, "fields")]
    assert [line["path"] for line in fields] == ["/info", "/info"]
