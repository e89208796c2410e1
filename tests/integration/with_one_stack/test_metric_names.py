"""What dashboards and alerts name is what the running service exposes."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import httpx

from tests.monitored import panel_queries, rule_queries
from tests.pictures import photograph

if TYPE_CHECKING:
    from tests.integration.stack import RunningStack

BODY = {"prompt": "a cup", "image_base64": base64.b64encode(photograph("coffee")).decode()}


def _exposed(url: str) -> set[str]:
    """List the series that an endpoint has, or would have with traffic."""
    names = set()
    for line in httpx.get(url).text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            names |= {name + suffix for suffix in (("_bucket", "_count") if kind == "histogram" else ("",))}
        elif not line.startswith("#"):
            names.add(re.split(r"[{ ]", line, maxsplit=1)[0])
    return names


def test_every_metric_of_dashboards_and_alerts_exists(stack: RunningStack) -> None:
    """Each metric that a panel or a rule names is exposed by the frontend or by Triton."""
    with stack.client() as client:  # a histogram of scores below zero has no sum: that shows now
        assert client.post("/score", json=BODY).status_code == 200
    exposed = _exposed(f"{stack.url}/metrics") | _exposed(f"http://127.0.0.1:{stack.metrics_port}/metrics")
    queries = [*panel_queries(), *rule_queries()]
    missing = {query.where: query.metrics - exposed for query in queries if query.metrics - exposed}
    assert missing == {}
    assert len(set().union(*(query.metrics for query in queries))) > 40


def test_served_versions_are_shown(stack: RunningStack) -> None:
    """The versions that are served, their roles and their shares are metrics from the start."""
    assert 'aesthetic_version_share{role="stable",version="1"} 1.0' in httpx.get(f"{stack.url}/metrics").text
