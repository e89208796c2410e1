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
    ("path", "status", "lines"),
    [("/health/ready", 200, 0), ("/health/live", 200, 0), ("/health/ready", 503, 1), ("/health", 200, 1)],
)
async def test_probes_that_find_all_well_leave_no_line(
    caplog: pytest.LogCaptureFixture, path: str, status: int, lines: int
) -> None:
    """A health probe that finds everything well leaves no line, since supervisors ask all the time.

    The log is for what people asked and for what is wrong.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("", status)(scope, receive, send)

    caplog.set_level(logging.INFO)
    transport = httpx.ASGITransport(AccessLogMiddleware(answer, metrics=Metrics(), traces=Traces()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get(path)).status_code == status
    assert len([record for record in caplog.records if hasattr(record, "fields")]) == lines


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
