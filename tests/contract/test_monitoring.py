"""Dashboards, alerts, their tests and their runbook agree with each other."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import yaml

from tests.monitored import MONITORING, dashboards, panel_queries, rule_queries, rules
from tests.repository import CHECKOUT

RUNBOOK = CHECKOUT / "docs" / "runbook.md"
ALERTS = [rule for rule in rules() if "alert" in rule]
PROVISIONING = MONITORING / "grafana" / "provisioning"


def _datasources() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for file in (PROVISIONING / "datasources").glob("*.yml"):
        found += yaml.safe_load(file.read_text())["datasources"]
    return found


def test_every_alert_leads_to_its_part_of_the_runbook() -> None:
    """`runbook_url` names a heading of the runbook, and each heading is an alert's."""
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alert["alert"] for alert in ALERTS)
    for alert in ALERTS:
        page, anchor = alert["annotations"]["runbook_url"].split("#")
        assert (CHECKOUT / page, anchor) == (RUNBOOK, alert["alert"].lower())


def test_every_alert_is_tested_to_fire_and_to_keep_quiet() -> None:
    """Each alert has series for which it must fire, and series for which it must not."""
    cases = yaml.safe_load((MONITORING / "alerts.test.yml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    for fires in (True, False):
        named = {check["alertname"] for check in checks if bool(check["exp_alerts"]) is fires}
        assert named == {alert["alert"] for alert in ALERTS}


def test_every_alert_says_how_bad_it_is() -> None:
    """An alert is `critical` or a `warning`, and has one sentence for people."""
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"]["summary"].endswith(".")


def test_recorded_series_are_recorded() -> None:
    """Panels and alerts name no recorded series but those of alerts.yml and of reference.py."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    named = set().union(*(query.recorded for query in (*panel_queries(), *rule_queries())))
    assert named == recorded | {"aesthetic:raw_score:reference"}
    assert "record: aesthetic:raw_score:reference" in (MONITORING / "reference.py").read_text()


def test_documented_dashboards_and_alerts_exist() -> None:
    """docs/monitoring.md has a line for each dashboard and for each alert."""
    page = (CHECKOUT / "docs" / "monitoring.md").read_text()
    assert re.findall(r"^### `(\w+\.json)`", page, re.MULTILINE) == sorted(dashboards())
    rows = re.findall(r"^\| \[(\w+)\]\(runbook\.md#(\w+)\) \|", page, re.MULTILINE)
    assert rows == [(alert["alert"], alert["alert"].lower()) for alert in ALERTS]


@pytest.mark.parametrize("name", sorted(dashboards()))
def test_a_dashboard_is_one_that_grafana_draws(name: str) -> None:
    """Identities are unique, panels do not overlap, and each asks the source that is provided."""
    dashboard = dashboards()[name]
    assert dashboard["uid"] == f"imajin-{name.removesuffix('.json')}"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    (source,) = _datasources()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["targets"]
        assert {target["refId"] for target in panel["targets"]} == set("ABCDEFGH"[: len(panel["targets"])])
        for asks in (panel, *panel["targets"]):
            assert asks["datasource"] == {"type": source["type"], "uid": source["uid"]}
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_dashboards_are_provided() -> None:
    """Each dashboard has its own uid, and Grafana is told of one folder that holds them."""
    assert len({dashboard["uid"] for dashboard in dashboards().values()}) == len(dashboards()) == 3
    (file,) = (PROVISIONING / "dashboards").glob("*.yml")
    (provider,) = yaml.safe_load(file.read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    (source,) = _datasources()
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
