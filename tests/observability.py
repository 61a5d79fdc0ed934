"""What docker/ asks of Prometheus: the expressions of the dashboard and of the alerts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[1] / "docker"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "bertpress.json"
ALERTS = DOCKER / "alerts.yml"


def dashboard() -> dict[str, Any]:
    """The provisioned dashboard."""
    parsed: dict[str, Any] = json.loads(DASHBOARD.read_bytes())
    return parsed


def panels() -> list[dict[str, Any]]:
    """Its panels, rows aside."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    """Its PromQL, with Grafana's variables filled in as Grafana would."""
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [text.replace("$__rate_interval", "1m").replace("$model", ".*") for text in expressions]


def alert_expressions() -> list[str]:
    """The PromQL of the alerting rules."""
    groups = yaml.safe_load(ALERTS.read_bytes())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def metric_names(expression: str) -> set[str]:
    """The names of ours that an expression uses."""
    return set(re.findall(r"\bbertpress_[a-z_]+\b", expression))
