"""`--profile monitoring`: a real Prometheus beside three frontends."""

from __future__ import annotations

import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.compose.project import Project, wait_for
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The official image has this folder, whose owner a new volume takes over. One that was made of
# Debian's package in its place may have none.
_WITH_FOLDER = """\
FROM prom/prometheus
USER 0
RUN mkdir -p /prometheus && chown 65534:65534 /prometheus
"""

pytestmark = [pytest.mark.compose, pytest.mark.timeout(3600)]


class Watched(Project):
    """A project with a Prometheus, which is asked through its published port."""

    def __init__(self, checkout: Path) -> None:
        (self.prometheus_port,) = free_ports(1)
        super().__init__(checkout, PROMETHEUS_PORT=str(self.prometheus_port), PROMETHEUS_TAG="test")

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of Prometheus; none while it does not listen yet."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}"
        try:
            return httpx.get(url, params=parameters, timeout=10, trust_env=False).json()["data"]
        except httpx.TransportError:
            return {}


@pytest.fixture(scope="module")
def watched(checkout: Path) -> Iterator[Watched]:
    """Three frontends, and Prometheus as docker-compose.yml starts it."""
    project = Watched(checkout)
    command = ["docker", "build", "--quiet", "--tag", "prom/prometheus:test", "-"]
    subprocess.run(command, input=_WITH_FOLDER.encode(), check=True, capture_output=True)
    try:
        project.up(frontends=3)
        project.compose("--profile", "monitoring", "up", "--detach", "prometheus")
        yield project
    finally:
        left = project.down()
    assert not left


def test_prometheus_reads_every_container(watched: Watched) -> None:
    """It finds each of three frontends, and Triton, by their names, and reads their metrics."""

    def up() -> dict[str, int]:
        targets = watched.ask("targets").get("activeTargets", [])
        return Counter(target["labels"]["job"] for target in targets if target["health"] == "up")

    wait_for(lambda: up() == {"frontend": 3, "triton": 1}, "all are read", patience_s=90)


def test_prometheus_evaluates_the_rules(watched: Watched) -> None:
    """The rules are evaluated without an error, and find nothing wrong with the service."""

    def alerts() -> list[dict[str, Any]]:
        groups = watched.ask("rules", type="alert").get("groups", [])
        return [rule for group in groups for rule in group["rules"]]

    wait_for(lambda: alerts() and all(rule["health"] == "ok" for rule in alerts()), "all were evaluated")
    assert {rule["name"] for rule in alerts() if rule["state"] == "firing"} == set()


def test_requests_are_counted_over_three_frontends(watched: Watched) -> None:
    """The proxy gives each of three frontends its share, and Prometheus counts them all."""
    for _ in range(9):
        assert watched.score().status_code == 200

    def scored() -> dict[str, int]:
        query = 'sum by (instance) (aesthetic_requests_total{endpoint="/score",code="200"})'
        found = watched.ask("query", query=query).get("result", [])
        return {one["metric"]["instance"]: int(one["value"][1]) for one in found}

    wait_for(lambda: sum(scored().values()) == 9, "Prometheus has read the nine", patience_s=90)
    assert len(scored()) == 3
    assert min(scored().values()) > 0
