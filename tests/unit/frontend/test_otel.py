"""Spans of requests, with OpenTelemetry's own SDK; and none without it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from frontend.http.access_log import AccessLogMiddleware
from frontend.http.body_limits import BodyLimits
from frontend.http.request_limits import RequestLimitsMiddleware
from frontend.metrics import Metrics
from frontend.otel import OtelTraces
from frontend.scoring.errors import Overloaded
from frontend.traces import Traces
from frontend.triton.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext
    from starlette.types import ASGIApp, Receive, Scope, Send

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


class Traced:
    """The outermost layers over a handler, and the spans that were taken."""

    def __init__(self, handle: Callable[[Metrics], Awaitable[None]], *, ratio: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        self.traces = OtelTraces(SimpleSpanProcessor(self._exporter), ratio)
        self.metrics = Metrics(self.traces)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await handle(self.metrics)
            await _answer(scope, receive, send)

        limits = BodyLimits(max_body_bytes=1000, max_buffered_bytes=1000)
        guarded: ASGIApp = RequestLimitsMiddleware(app, limits=limits, keys=None)
        self._app = AccessLogMiddleware(guarded, metrics=self.metrics, traces=self.traces)

    async def post(self, path: str = "/score", *, flags: str | None = "01") -> int:
        headers = {} if flags is None else {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.post(path, headers=headers)).status_code

    def spans(self) -> dict[str, ReadableSpan]:
        """Return the spans by their names; each name came once."""
        found = self._exporter.get_finished_spans()
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def _parent(span: ReadableSpan) -> str | None:
    return None if span.parent is None else format_span_id(span.parent.span_id)


def _id(span: ReadableSpan) -> str:
    return format_span_id(_context(span).span_id)


def _context(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


async def test_a_callers_trace_is_continued_through_every_stage() -> None:
    """The request is a part of the caller's trace, and its stages are parts of the request.

    What is sent to Triton names the stage in which Triton is asked.
    """
    sent: list[dict[str, str] | None] = []

    async def handle(metrics: Metrics) -> None:
        with metrics.stage("queue", images=2):
            await asyncio.sleep(0)

        async def decode() -> None:
            with metrics.stage("decode"):
                await asyncio.sleep(0)

        await asyncio.create_task(decode())
        with metrics.stage("infer", version="3", images=2):
            sent.append(traced.traces.headers())

    traced = Traced(handle)
    assert await traced.post() == 200
    spans = traced.spans()
    assert set(spans) == {"POST /score", "queue", "decode", "infer"}
    assert {format_trace_id(_context(span).trace_id) for span in spans.values()} == {TRACE}
    request = spans.pop("POST /score")
    assert (_parent(request), request.kind) == (CALLER, SpanKind.SERVER)
    assert dict(request.attributes or {}) == {"http.route": "/score", "http.response.status_code": 200}
    assert {_parent(span) for span in spans.values()} == {_id(request)}
    assert dict(spans["infer"].attributes or {}) == {"aesthetic.version": "3", "aesthetic.images": 2}
    assert sent == [{"traceparent": f"00-{TRACE}-{_id(spans['infer'])}-01"}]


async def test_a_caller_who_does_not_trace_is_not_traced() -> None:
    """A caller's decision against a trace is kept, and Triton is not asked to follow, either."""
    sent: list[dict[str, str] | None] = []

    async def handle(metrics: Metrics) -> None:
        with metrics.stage("infer"):
            sent.append(traced.traces.headers())

    traced = Traced(handle)
    assert await traced.post(flags="00") == 200
    assert (traced.spans(), sent) == ({}, [None])


@pytest.mark.parametrize(("ratio", "spans"), [(0.0, 0), (1.0, 1)])
async def test_a_share_of_the_other_requests_is_traced(ratio: float, spans: int) -> None:
    """Without a caller's trace, the configured share of the requests begins one."""
    traced = Traced(_nothing, ratio=ratio)
    await traced.post(flags=None)
    assert len(traced.spans()) == spans


@pytest.mark.parametrize("path", ["/health/ready", "/metrics", "/nowhere"])
async def test_probes_and_scrapes_are_not_traced(path: str) -> None:
    """Only scoring requests are traced, whatever a caller sends."""
    traced = Traced(_nothing)
    await traced.post(path)
    assert traced.spans() == {}


async def test_an_error_is_named_and_not_quoted() -> None:
    """A failed stage has its error's class, the request its code, and no span the error's text."""

    async def handle(metrics: Metrics) -> None:
        with metrics.stage("infer"):
            raise Unreachable("public words", internal="private words: http://user:secret@host/")

    traced = Traced(handle)
    assert await traced.post() == 503
    spans = traced.spans()
    assert (spans["infer"].attributes or {})["error.type"] == "Unreachable"
    assert (spans["POST /score"].attributes or {})["error.type"] == "model_unavailable"
    assert {span.status.status_code for span in spans.values()} == {StatusCode.ERROR}
    assert not any(span.events for span in spans.values())
    assert not any("words" in span.to_json() for span in spans.values())


async def test_a_refusal_is_no_failure_of_the_service() -> None:
    """An answer below 500 leaves the request's span without an error status, but with its code."""

    async def handle(metrics: Metrics) -> None:
        del metrics
        raise Overloaded("the queue is full")

    traced = Traced(handle)
    assert await traced.post() == 429
    request = traced.spans()["POST /score"]
    assert (request.attributes or {})["error.type"] == "overloaded"
    assert request.status.status_code is StatusCode.UNSET


async def test_the_log_line_names_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    """The log line of a traced request has its `trace_id`."""
    caplog.set_level("INFO")
    traced = Traced(_nothing)
    await traced.post()
    (line,) = (record.__dict__["fields"] for record in caplog.records if hasattr(record, "fields"))
    assert line["trace_id"] == TRACE


async def test_work_for_nobody_is_not_traced() -> None:
    """A stage outside of a request, such as a look at the health, is no trace of its own."""
    traced = Traced(_nothing)
    with traced.metrics.stage("infer"):
        assert traced.traces.headers() is None
    assert traced.spans() == {}


def test_nothing_is_kept_where_nothing_is_traced() -> None:
    """Without a collector every span is the same empty block, and Triton gets no header."""
    traces = Traces()
    assert traces.span("queue", images=2) is traces.span("infer")
    assert traces.request("/score", [], {}) is traces.request("/score-batch", [], {})
    assert traces.headers() is None


def test_the_service_starts_without_the_extra() -> None:
    """Where no collector is named, neither frontend/otel.py nor OpenTelemetry's SDK is loaded."""
    look = "import sys, frontend.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "frontend.traces" in loaded
    assert "frontend.otel" not in loaded
    assert not any(name.startswith(("opentelemetry.exporter", "opentelemetry.sdk")) for name in loaded)


async def _nothing(metrics: Metrics) -> None:
    del metrics
