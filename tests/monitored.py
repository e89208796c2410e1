"""What deploy/monitoring says: its dashboards, its rules, and the metrics that they name."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

MONITORING: Final = CHECKOUT / "deploy" / "monitoring"
_METRIC: Final = re.compile(r"\b(?:aesthetic|nv|process)(?:_[a-z0-9]+)+\b")
_RECORDED: Final = re.compile(r"\baesthetic(?::[a-z_]+)+\b")


class Query(NamedTuple):
    """One expression of a panel or a rule."""

    where: str
    expression: str

    @property
    def metrics(self) -> set[str]:
        """Return the metrics of the service that it names."""
        return set(_METRIC.findall(_RECORDED.sub("", self.expression)))

    @property
    def recorded(self) -> set[str]:
        """Return the recorded series that it names."""
        return set(_RECORDED.findall(self.expression))


def dashboards() -> dict[str, dict[str, Any]]:
    """Read every dashboard, by its file's name."""
    files = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
    return {file.name: json.loads(file.read_text()) for file in files}


def panel_queries() -> Iterator[Query]:
    """List every query of every panel."""
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield Query(f"{name}: {panel['title']}", target["expr"])


def rules() -> list[dict[str, Any]]:
    """Read every rule, recorded or an alert."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def rule_queries() -> Iterator[Query]:
    """List every rule's expression."""
    for rule in rules():
        yield Query(rule.get("alert") or rule["record"], rule["expr"])
