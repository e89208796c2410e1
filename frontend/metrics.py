"""Prometheus metrics of the frontend; Triton has its own on 8002."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from frontend.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IMAGES = (1, 2, 3, 4, 5, 6, 8, 10, 16, 32, 64)
_SCORES = (-2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5)

_DIFFERENCES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_MAX_VERSIONS = 16


class Metrics:
    """One registry for each application, so that two in one process do not mix."""

    def __init__(self, traces: Traces | None = None) -> None:
        self._traces = traces or Traces()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        counter = partial(Counter, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        seconds = partial(histogram, buckets=_SECONDS)

        self.requests = counter("aesthetic_requests", "Requests answered", ["endpoint", "code"])
        self.errors = counter("aesthetic_errors", "Requests answered with an error", ["endpoint", "code"])
        self.request_seconds = seconds("aesthetic_request_seconds", "Time of a request", ["endpoint"])
        self.stage_seconds = seconds(
            "aesthetic_stage_seconds", "Time of a stage: queue, fetch, decode, infer", ["stage"]
        )
        self.in_work = gauge("aesthetic_images_in_work", "Images admitted")
        self.max_in_work = gauge("aesthetic_max_images_in_work", "Images admitted at most")
        self.queued = gauge("aesthetic_images_queued", "Images waiting for admission")
        self.max_queued = gauge("aesthetic_max_images_queued", "Images waiting for admission at most")
        self.buffered_bytes = gauge("aesthetic_buffered_bytes", "Size of all bodies held")
        self.max_buffered_bytes = gauge("aesthetic_max_buffered_bytes", "Size of all bodies held at most")
        self.failed_images = counter("aesthetic_failed_images", "Images that got no score", ["code"])
        self.fetch_denials = counter("aesthetic_fetch_denials", "URLs that may not be fetched", ["reason"])
        self.decode_workers = gauge("aesthetic_decode_workers", "Decode workers")
        self.decode_workers_busy = gauge("aesthetic_decode_workers_busy", "Decode workers at work")
        self.decode_workers_lost = counter(
            "aesthetic_decode_workers_lost", "Decode workers that died at work"
        )

        self.cache = counter("aesthetic_cache", "Look-ups of the score cache", ["result"])
        self.batch_images = histogram(
            "aesthetic_batch_images",
            "Images of one request to Triton",
            ["version"],
            buckets=_IMAGES,
        )
        self.infer_seconds = seconds("aesthetic_infer_seconds", "Time of one request to Triton", ["version"])
        self.raw_score = histogram("aesthetic_raw_score", "Raw scores given", ["version"], buckets=_SCORES)
        self.version_errors = counter(
            "aesthetic_version_errors", "Requests to Triton that failed", ["version", "error"]
        )
        self.shadow_images = counter(
            "aesthetic_shadow_images",
            "Images for the shadow: compared, failed, dropped",
            ["version", "result"],
        )
        self.shadow_difference = histogram(
            "aesthetic_shadow_difference",
            "Difference of raw scores, shadow and stable version",
            ["version"],
            buckets=_DIFFERENCES,
        )
        self.part_failing = gauge(
            "aesthetic_part_failing", "1 while a part fails, as /health/ready says", ["part"]
        )
        self.circuit_open = gauge("aesthetic_circuit_open", "1 while Triton is left alone after failures")

        self.gpu_state = gauge("aesthetic_gpu_state", "1 for the state that the model is in", ["state"])
        self.gpu_lease_held = gauge("aesthetic_gpu_lease_held", "1 while a GPU lease is held")
        self.gpu_unprotected = gauge(
            "aesthetic_gpu_unprotected", "1 while the model stays loaded without a lease (fail_open)"
        )
        self.gpu_wait_seconds = seconds(
            "aesthetic_gpu_wait_seconds", "Time for which a request waited for the model"
        )
        self.gpu_load_seconds = seconds("aesthetic_gpu_load_seconds", "Time to load the model")
        self.gpu_unload_seconds = seconds("aesthetic_gpu_unload_seconds", "Time to unload the model")
        self.gpu_endings = counter(
            "aesthetic_gpu_endings", "Why the model went, or did not come, at the keeper", ["reason"]
        )

        self._versions: dict[str, None] = {}
        self._by_version = [self.batch_images, self.infer_seconds, self.raw_score, self.version_errors]
        self._by_version += [self.shadow_images, self.shadow_difference]

    def watch_shares(self, shares: Callable[[], Iterable[Share]]) -> None:
        """Show the versions that are served at the moment of each scrape."""
        self._registry.register(_Shares(shares))

    def label(self, version: str) -> str:
        """Return a version's label; if there are too many, the series of the oldest version go."""
        if version not in self._versions:
            self._versions[version] = None
            if len(self._versions) > _MAX_VERSIONS:
                first = next(iter(self._versions))
                del self._versions[first]
                for metric in self._by_version:
                    metric.remove_by_labels({"version": first})
        return version

    @contextmanager
    def stage(self, name: str, **attributes: str | int) -> Iterator[None]:
        """Time a stage; in a trace it is a span with these attributes."""
        started = time.perf_counter()
        try:
            with self._traces.span(name, **attributes):
                yield
        finally:
            self.stage_seconds.labels(name).observe(time.perf_counter() - started)

    def render(self) -> bytes:
        """Write everything in Prometheus' text format."""
        return generate_latest(self._registry)


class Share(NamedTuple):
    """How much one served version is asked."""

    version: str
    role: str
    share: float


class _Shares(Collector):
    """Asked at each scrape, so that versions that are served no longer leave nothing behind."""

    def __init__(self, shares: Callable[[], Iterable[Share]]) -> None:
        self._shares = shares

    def collect(self) -> Iterable[Metric]:
        """Make one gauge of all versions."""
        gauge = GaugeMetricFamily(
            "aesthetic_version_share",
            "Share of the questions, of a served version",
            labels=["version", "role"],
        )
        for version, role, share in self._shares():
            gauge.add_metric([version, role], share)
        yield gauge
