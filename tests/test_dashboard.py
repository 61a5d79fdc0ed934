from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import yaml

from app.main import assemble
from app.settings import Settings
from tests.observability import (
    DASHBOARD,
    DOCKER,
    alert_expressions,
    dashboard,
    dashboard_expressions,
    metric_names,
    panels,
)

VARIABLE_QUERIES = [variable["definition"] for variable in dashboard()["templating"]["list"]]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every sample name that /metrics can give."""
    folder = tmp_path_factory.mktemp("service")
    parts = assemble(Settings(models=folder, state=folder / "promoted.json"))
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    return {
        family.name + suffix
        for family in parts.metrics.registry.collect()
        for suffix in suffixes.get(family.type, [])
    }


@pytest.mark.parametrize("expression", [*dashboard_expressions(), *alert_expressions(), *VARIABLE_QUERIES])
def test_every_metric_that_is_asked_for_exists(expression: str, exposed: set[str]) -> None:
    assert metric_names(expression) <= exposed


def test_the_dashboard_and_the_alerts_ask_for_something() -> None:
    assert all(metric_names(text) or text.startswith("up{") for text in alert_expressions())
    assert all(map(metric_names, dashboard_expressions()))


def test_the_dashboard_has_its_rows() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]

    assert rows == ["Traffic", "Latency", "Batching", "Memory", "Models", "Drift", "Machine"]


def test_panels_are_explained_and_told_apart() -> None:
    everything = dashboard()["panels"]

    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in panels()}) == len(panels())
    assert all(panel["description"].endswith(".") and panel["targets"] for panel in panels())


def test_panels_lie_within_the_grid_and_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]

    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not [pair for pair in combinations(places, 2) if _overlap(*pair)]


def test_every_panel_reads_the_provisioned_datasource() -> None:
    provisioned = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_bytes())
    (datasource,) = provisioned["datasources"]
    used = {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}

    assert used == {datasource["uid"]}


def test_grafana_finds_the_dashboard_where_compose_puts_it() -> None:
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/bertpress.yaml").read_bytes())
    grafana = yaml.safe_load((DOCKER / "compose.yaml").read_bytes())["services"]["grafana"]
    folder = provider["providers"][0]["options"]["path"]

    assert f"./grafana/dashboards:{folder}:ro" in grafana["volumes"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home == Path(folder) / DASHBOARD.name


def test_prometheus_reads_the_alerts_and_scrapes_the_service() -> None:
    prometheus = yaml.safe_load((DOCKER / "prometheus.yml").read_bytes())
    services = yaml.safe_load((DOCKER / "compose.yaml").read_bytes())["services"]
    (job,) = prometheus["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")

    assert prometheus["rule_files"] == ["alerts.yml"]
    assert "./alerts.yml:/etc/prometheus/alerts.yml:ro" in services["prometheus"]["volumes"]
    assert services[name]["ports"][0].endswith(f":{port}")


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    down = one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]
    return across and down
