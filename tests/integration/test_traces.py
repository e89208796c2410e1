"""A trace goes from REST through Triton, and both send their spans to one collector."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.stack import RunningStack
from tests.pictures import photograph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
BODY = {"prompt": "a cup", "image_base64": base64.b64encode(photograph("coffee")).decode()}


class Collector(ThreadingHTTPServer):
    """Takes spans as OTLP over HTTP: protobuf of the frontend, JSON of Triton."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Collecting)
        self.url = f"http://127.0.0.1:{self.server_port}/v1/traces"
        self.keys: set[str | None] = set()
        """What the frontend's exporter sends as Authorization."""
        self.traces: defaultdict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
        """Trace -> span -> its name and its parent."""

    def take(self, body: bytes, content_type: str) -> None:
        if content_type == "application/json":
            found = json.loads(body)["resourceSpans"]
            spans = [span for one in found for scope in one["scopeSpans"] for span in scope["spans"]]
            for span in spans:
                self.traces[span["traceId"]][span["spanId"]] = (span["name"], span["parentSpanId"])
            return
        for one in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in one.scope_spans:
                for taken in scope.spans:
                    place = self.traces[taken.trace_id.hex()]
                    place[taken.span_id.hex()] = (taken.name, taken.parent_span_id.hex())

    def way(self, trace: str, name: str) -> list[str]:
        """Return the names from a span up to the caller's."""
        spans = self.traces[trace]
        (at,) = (span for span, (own, _) in spans.items() if own == name)
        names = []
        while at in spans:
            names.append(spans[at][0])
            at = spans[at][1]
        return [*names, at]


class _Collecting(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        if self.headers["Content-Type"] == "application/x-protobuf":
            self.server.keys.add(self.headers["Authorization"])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.take(body, self.headers["Content-Type"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collecting:
        thread = threading.Thread(target=collecting.serve_forever)
        thread.start()
        yield collecting
        collecting.shutdown()
        thread.join()


def test_one_trace_from_the_caller_into_triton(
    published_repository: Path, tmp_path: Path, collector: Collector
) -> None:
    """Triton's spans are parts of the stage `infer`, which is a part of the caller's own trace.

    A request that its caller does not trace, and the stack's own probes, leave no spans at all.
    A key for the collector is sent with the frontend's.
    """
    stack = RunningStack(
        published_repository,
        tmp_path,
        AESTHETIC_OTLP_URL=collector.url,
        OTEL_EXPORTER_OTLP_HEADERS="authorization=for-the-collector",
    )
    stack.start()
    try:
        with stack.client() as client:
            for trace, flags in ((TRACE, "01"), (TRACE[::-1], "00")):
                headers = {"traceparent": f"00-{trace}-{CALLER}-{flags}"}
                assert client.post("/score", json=BODY, headers=headers).status_code == 200
    finally:
        stack.stop()  # which sends what was not sent yet
    until = time.monotonic() + 20
    while len(collector.traces[TRACE]) < 7 and time.monotonic() < until:
        time.sleep(0.1)
    assert (set(collector.traces), collector.keys) == ({TRACE}, {"for-the-collector"})
    names = sorted(name for name, _ in collector.traces[TRACE].values())
    assert names == sorted(
        ["POST /score", "queue", "decode", "infer", "InferRequest", "image_reward_network", "compute"]
    )
    assert collector.way(TRACE, "compute") == [
        *("compute", "image_reward_network", "InferRequest", "infer", "POST /score", CALLER)
    ]


@pytest.mark.slow
def test_a_collector_that_is_away_stops_nothing(published_repository: Path, tmp_path: Path) -> None:
    """Without a collector that answers, requests are scored, and the end is orderly."""
    stack = RunningStack(published_repository, tmp_path, AESTHETIC_OTLP_URL="http://127.0.0.1:9/v1/traces")
    stack.start()
    try:
        with stack.client() as client:
            assert client.post("/score", json=BODY).status_code == 200
    finally:
        status = stack.stop()
    assert (status, stack.left_over()) == (0, [])
