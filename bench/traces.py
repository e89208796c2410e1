"""What traces cost a request: `python -m bench.traces`.

Processor time of what a request of four stages does for its metrics and its spans, without any
other work; the best of 25 rounds, so that neighbours count little.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from frontend.metrics import Metrics
from frontend.otel import OtelTraces
from frontend.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

_REQUESTS: Final = 2000
_ROUNDS: Final = 25
_STAGES: Final = 4
_HEADERS: Final = [(b"host", b"localhost"), (b"content-type", b"application/json")]


class _Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        del spans
        return SpanExportResult.SUCCESS


def main() -> None:
    """Print one line for each way."""
    metrics = Metrics()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            metrics.stage_seconds.labels(name).observe(time.perf_counter() - started)

    def without() -> None:
        for _ in range(_STAGES):
            with timed("infer"):
                pass

    _show("stages timed, and no spans in the code", without)
    _show("no collector (the default)", _with(Traces()))
    _show("collector, request not followed", _with(_traces(0.0)))
    _show("collector, request followed", _with(_traces(1.0)))


def _traces(ratio: float) -> Traces:
    return OtelTraces(BatchSpanProcessor(_Nowhere()), ratio)


def _with(traces: Traces) -> Callable[[], None]:
    metrics = Metrics(traces)

    def ask() -> None:
        with traces.request("/score", _HEADERS, {}) as finish:
            for _ in range(_STAGES):
                with metrics.stage("infer", version="1", images=10):
                    pass
            traces.headers()
            finish(200, {})

    return ask


def _show(name: str, ask: Callable[[], None]) -> None:
    rounds = []
    for _ in range(_ROUNDS):
        started = time.process_time_ns()
        for _ in range(_REQUESTS):
            ask()
        rounds.append((time.process_time_ns() - started) / _REQUESTS / 1000)
    print(f"{min(rounds):6.1f} µs  {name}")


if __name__ == "__main__":
    main()
