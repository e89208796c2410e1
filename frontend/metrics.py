"""Prometheus metrics of the frontend; Triton has its own on 8002."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """One registry for each application, so that two in one process do not meet."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "aesthetic_requests", "Requests answered", ["endpoint", "code"], registry=registry
        )
        self.request_seconds = Histogram(
            "aesthetic_request_seconds",
            "Time of a request",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "aesthetic_stage_seconds",
            "Time of a stage: queue, fetch, decode, infer",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_images = Histogram(
            "aesthetic_batch_images",
            "Images of one request to Triton",
            buckets=(1, 2, 3, 4, 5, 6, 8, 10, 16, 32, 64),
            registry=registry,
        )
        self.raw_score = Histogram(
            "aesthetic_raw_score",
            "Raw scores given",
            buckets=(-2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5),
            registry=registry,
        )
        self.cache = Counter("aesthetic_cache", "Look-ups of the score cache", ["result"], registry=registry)
        self.failed_images = Counter(
            "aesthetic_failed_images", "Images that got no score", ["code"], registry=registry
        )
        self.fetch_denials = Counter(
            "aesthetic_fetch_denials", "URLs that may not be fetched", ["reason"], registry=registry
        )
        self.decode_workers_lost = Counter(
            "aesthetic_decode_workers_lost", "Decode workers that died at work", registry=registry
        )
        self.in_work = Gauge("aesthetic_images_in_work", "Images admitted", registry=registry)
        self.queued = Gauge("aesthetic_images_queued", "Images waiting for admission", registry=registry)
        self.circuit_open = Gauge(
            "aesthetic_circuit_open", "1 while Triton is left alone after failures", registry=registry
        )
        self.gpu_state = Gauge(
            "aesthetic_gpu_state", "1 for the state that the model is in", ["state"], registry=registry
        )
        self.gpu_lease_held = Gauge(
            "aesthetic_gpu_lease_held", "1 while a GPU lease is held", registry=registry
        )
        self.gpu_unprotected = Gauge(
            "aesthetic_gpu_unprotected",
            "1 while the model stays loaded without a lease (fail_open)",
            registry=registry,
        )
        self.gpu_wait_seconds = Histogram(
            "aesthetic_gpu_wait_seconds",
            "Time for which a request waited for the model",
            buckets=_SECONDS,
            registry=registry,
        )
        self.gpu_load_seconds = Histogram(
            "aesthetic_gpu_load_seconds", "Time to load the model", buckets=_SECONDS, registry=registry
        )
        self.gpu_unload_seconds = Histogram(
            "aesthetic_gpu_unload_seconds", "Time to unload the model", buckets=_SECONDS, registry=registry
        )
        self.gpu_endings = Counter(
            "aesthetic_gpu_endings",
            "Why the model went, or did not come, at the keeper",
            ["reason"],
            registry=registry,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds.labels(name).observe(time.perf_counter() - started)

    def render(self) -> bytes:
        """Write everything in Prometheus' text format."""
        return generate_latest(self._registry)
