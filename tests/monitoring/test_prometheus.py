"""A real Prometheus over the real service: it scrapes, records, and answers every panel."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import pytest
import yaml

from export.deployment_store import DeploymentStore
from export.publish import Recipe, publish
from export.registry import Registry
from frontend.http.keys import key_line
from reward.deployment import Deployment, Share
from tests.integration.stack import RunningStack
from tests.monitored import MONITORING, panel_queries, rules
from tests.pictures import PHOTOGRAPHS, photograph
from tests.ports import free_ports
from tests.small import save_small_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.monitoring,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on PATH"),
]

KEY: Final = "the key of the test's Prometheus"
QUESTIONS: Final = 60  # requests of ten images each: more than 200 for each version
FORBIDDEN: Final = {"prompt": "x", "image_url": "http://169.254.169.254/"}
QUIET: Final = {
    "triton.json: Why the model went, or did not come",  # it came, and stays
    "versions.json: Failed requests to Triton",  # none fails
}
"""Panels without data after traffic in which nothing goes wrong."""


class Prometheus:
    """A Prometheus by the project's own configuration, but for its targets and its pace."""

    def __init__(self, directory: Path, targets: dict[str, str], key: str) -> None:
        (self._port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self.directory = directory
        directory.mkdir()
        (directory / "metrics_key").write_text(key)
        settings = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        assert [job["job_name"] for job in settings["scrape_configs"]] == list(targets)
        for job in settings["scrape_configs"]:
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
            if "authorization" in job:
                job["authorization"]["credentials_file"] = "metrics_key"
        (directory / "prometheus.yml").write_text(yaml.safe_dump(settings))
        recorded = (MONITORING / "alerts.yml").read_text().replace("interval: 1m", "interval: 1s")
        (directory / "alerts.yml").write_text(recorded)

    def __enter__(self) -> Self:
        command = [
            "prometheus",
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--web.enable-lifecycle",
        ]
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now."""
        answer = httpx.post(f"{self.url}/api/v1/query", data={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def scraped_again(self) -> None:
        """Wait until both targets answer, and were asked after this call."""
        asked_s = time.time()
        wait_for(lambda: [one["health"] for one in self._targets(asked_s)] == ["up", "up"], self._log)

    def _targets(self, since_s: float) -> list[dict[str, Any]]:
        try:
            answer = httpx.get(f"{self.url}/api/v1/targets").json()
        except httpx.TransportError:
            return []  # it only starts
        ago = "%Y-%m-%dT%H:%M:%S"
        since = time.strftime(ago, time.gmtime(since_s + 1))
        return [one for one in answer["data"]["activeTargets"] if one["lastScrape"] > since]

    def _log(self) -> str:
        return (self.directory / "log").read_text()[-2000:]


def wait_for(found: Callable[[], bool], tell: Callable[[], object], limit_s: float = 60) -> None:
    """Wait until it is so; say what is instead if it does not come."""
    until = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < until, tell()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def service(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Three small networks of random weights, one as canary, one as shadow.

    They share a GPU by a ledger, and API keys are configured.
    """
    directory = tmp_path_factory.mktemp("monitored")
    for seed in (1, 2):
        checkpoint = save_small_checkpoint(directory / f"{seed}.safetensors", seed=seed)
        publish(Registry(published_repository), Recipe(checkpoint, f"random {seed}"), show_progress=False)
    served = Deployment(1, canary=Share(2, 0.5), shadow=Share(3, 0.5))
    DeploymentStore(published_repository).write(served)
    (directory / "keys").write_text(key_line("prometheus", KEY) + "\n")
    (redis_port,) = free_ports(1)
    running = RunningStack(
        published_repository,
        directory,
        arguments=["--redis", f"--redis-port={redis_port}", "--gpu=test:0", "--gpu-total-mb=8192"],
        AESTHETIC_API_KEYS_FILE=str(directory / "keys"),
        AESTHETIC_MODEL_BOSS_TTL_S="3",
    )
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def prometheus(service: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen the service before and after traffic."""
    targets = {"frontend": f"127.0.0.1:{service.port}", "triton": f"127.0.0.1:{service.metrics_port}"}
    with Prometheus(tmp_path_factory.mktemp("prometheus") / "own", targets, KEY) as running:
        headers = {"X-API-Key": KEY}
        with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:
            assert client.post("/score-batch", json=_batch(-1)).status_code == 200  # loads the model
            client.post("/score", json=FORBIDDEN)
            running.scraped_again()
            for number in range(QUESTIONS):
                assert client.post("/score-batch", json=_batch(number)).status_code == 200
            client.post("/score", json={"prompt": "x", "image_base64": "AAAA"})
            client.post("/score", json=FORBIDDEN)
        running.scraped_again()
        yield running


def _batch(number: int) -> dict[str, Any]:
    images = [base64.b64encode(photograph(name)).decode() for name in PHOTOGRAPHS]
    candidates = [{"image_base64": images[index % len(images)]} for index in range(10)]
    return {"prompt": f"the photograph with the number {number}", "candidates": candidates}


def test_both_doors_are_scraped_with_a_key(prometheus: Prometheus) -> None:
    """Prometheus scrapes Triton, and the frontend with the key of its file."""
    assert {one["metric"]["job"]: one["value"][1] for one in prometheus.query("up")} == {
        "frontend": "1",
        "triton": "1",
    }


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    """Prometheus loads every rule, and none of them fails on the service's real series."""
    wait_for(lambda: all(rule["lastEvaluation"] > "0002" for rule in _rules(prometheus)), lambda: "")
    found = _rules(prometheus)
    assert [rule["name"] for rule in found] == [rule.get("record") or rule["alert"] for rule in rules()]
    assert {rule["health"] for rule in found} == {"ok"}, found


def _rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    groups = httpx.get(f"{prometheus.url}/api/v1/rules").json()["data"]["groups"]
    by_name = {group["name"]: group["rules"] for group in groups}
    return [*by_name["imajin-aesthetic-scores"], *by_name["imajin-aesthetic"]]


def test_a_frozen_reference_and_every_panel(prometheus: Prometheus) -> None:
    """`reference.py` writes rules that Prometheus loads; then every panel has data.

    The scores are then as far from their own reference as from themselves, and the canary, with
    other weights, is somewhere else.
    """
    command = [sys.executable, str(MONITORING / "reference.py"), prometheus.url, "1", "--min-scores"]
    refused = subprocess.run([*command, "1000000"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "scores of version 1 in 7d" in refused.stderr
    written = subprocess.run([*command, "200"], capture_output=True, text=True, check=True).stdout
    (prometheus.directory / "reference-1.yml").write_text(written)
    assert httpx.post(f"{prometheus.url}/-/reload").status_code == 200
    wait_for(lambda: bool(prometheus.query("aesthetic:raw_score:drift")), lambda: written)
    (drift,) = prometheus.query("aesthetic:raw_score:drift")
    assert drift["metric"]["version"] == "1"
    assert float(drift["value"][1]) < 0.01
    beside = prometheus.query("aesthetic:raw_score:distance_to_stable")
    assert {one["metric"]["version"] for one in beside} <= {"2", "3"}
    empty = {query.where for query in panel_queries() if not prometheus.query(_now(query.expression))}
    assert empty == QUIET


def _now(expression: str) -> str:
    """Put a number where Grafana would."""
    return expression.replace("$__rate_interval", "1m")


def test_without_keys_an_empty_file_will_do(stack: RunningStack, tmp_path: Path) -> None:
    """A service without API keys is scraped with an empty file in the place of the key."""
    targets = {"frontend": f"127.0.0.1:{stack.port}", "triton": f"127.0.0.1:{stack.metrics_port}"}
    with Prometheus(tmp_path / "own", targets, "") as running:
        running.scraped_again()
