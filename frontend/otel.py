"""Spans for an OpenTelemetry collector: the extra `otel`, off unless AESTHETIC_OTLP_URL is set.

No prompt, URL, key or text of an error stands in a span; an error is named by its code or class.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from frontend.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.sdk.trace import SpanProcessor

    from frontend.traces import Finish

_SERVICE: Final = "imajin-aesthetic"
_ENDPOINTS: Final = frozenset({"/score", "/score-batch"})
"""Probes and scrapes come every few seconds, and nobody follows them."""
_SEND_TIMEOUT_S: Final = 1.0
"""At its end the service waits for the collector twice as long: for what is on its way, and once
more for the rest, which is one batch at most.
"""
_MAX_WAITING: Final = 2048  # spans; beyond them the oldest are lost
_ATTRIBUTES: Final = ("key", "images")
"""Notes of the log line that stand in the span of the request, too."""


def open_traces(url: str, ratio: float) -> OtelTraces:
    """Send spans to the collector at `url`, from a thread of their own."""
    exporter = OTLPSpanExporter(url, timeout=_SEND_TIMEOUT_S)
    sender = BatchSpanProcessor(exporter, max_queue_size=_MAX_WAITING, max_export_batch_size=_MAX_WAITING)
    return OtelTraces(sender, ratio)


class OtelTraces(Traces):
    """Takes spans of scoring requests.

    A caller's `traceparent` is continued, and its sampling is kept. Of requests without one,
    `ratio` are followed.
    """

    def __init__(self, processor: SpanProcessor, ratio: float) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource({"service.name": _SERVICE}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(_SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(
        self, endpoint: str, headers: Iterable[tuple[bytes, bytes]], notes: dict[str, object]
    ) -> Iterator[Finish]:
        """Follow one request, and note its trace for the log line."""
        if endpoint not in _ENDPOINTS:
            with super().request(endpoint, headers, notes) as forget:
                yield forget
            return
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        with self._tracer.start_as_current_span(
            f"POST {endpoint}",
            self._propagator.extract(sent),
            kind=SpanKind.SERVER,
            attributes={"http.route": endpoint},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if span.is_recording():
                notes["trace_id"] = trace.format_trace_id(span.get_span_context().trace_id)

            def finish(status: int, notes: dict[str, object]) -> None:
                span.set_attribute("http.response.status_code", status)
                for name in _ATTRIBUTES:
                    if name in notes:
                        span.set_attribute(f"aesthetic.{name}", str(notes[name]))
                if "error" in notes:
                    span.set_attribute("error.type", str(notes["error"]))
                if status >= 500:
                    span.set_status(StatusCode.ERROR)

            yield finish

    @contextmanager
    def span(self, name: str, **attributes: str | int) -> Iterator[None]:
        """Follow one stage of the present request; work for no request is not followed."""
        if not trace.get_current_span().is_recording():
            yield
            return
        with self._tracer.start_as_current_span(
            name,
            attributes={f"aesthetic.{key}": value for key, value in attributes.items()},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:  # a request that was cancelled, too
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)
                raise

    def headers(self) -> dict[str, str] | None:
        """Return `traceparent` for the present span; None if it is not followed."""
        if not trace.get_current_span().is_recording():
            return None  # Triton 2.51 would follow even a request that says it is not to be
        sent: dict[str, str] = {}
        self._propagator.inject(sent)
        return sent

    def close(self) -> None:
        """Send what was not sent yet, within two seconds."""
        self._provider.shutdown()
