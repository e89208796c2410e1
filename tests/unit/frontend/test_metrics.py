"""Metrics by version."""

from __future__ import annotations

from frontend.metrics import Metrics


def test_versions_that_came_first_make_room() -> None:
    """At most the sixteen newest versions have series of metrics."""
    metrics = Metrics()
    for number in range(100):
        version = metrics.label(str(number))
        metrics.raw_score.labels(version).observe(0.5)
        metrics.version_errors.labels(version, "NotReady").inc()
        metrics.shadow_images.labels(version, "failed").inc()
    text = metrics.render().decode()
    for name in ("raw_score_count", "version_errors_total", "shadow_images_total"):
        lines = [line for line in text.splitlines() if line.startswith(f"aesthetic_{name}{{")]
        assert len(lines) == 16
        assert any('version="99"' in line for line in lines)
