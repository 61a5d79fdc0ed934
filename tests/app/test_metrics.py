from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics


def families(metrics: Metrics) -> dict[str, str]:
    text = metrics.render().decode()
    return {family.name: family.type for family in text_string_to_metric_families(text)}


def test_names_and_units_follow_the_conventions() -> None:
    metrics = Metrics()
    metrics.variant("m", 1, ["a", "b"])
    metrics.count_request("m", 1, "ok")
    metrics.count_swap("load", "ok")
    metrics.observe_http("GET", "/v1/models", 200, 0.1)
    found = families(metrics)
    assert all(name.startswith("bertpress_") for name in found)
    assert all(name.endswith("_seconds") for name, kind in found.items() if "duration" in name)
    assert not any("_ms" in name for name in found)
    for name in ("request", "queue", "tokenize", "inference"):
        assert found[f"bertpress_{name}_duration_seconds"] == "histogram"
    for name in ("requests", "predictions", "tokens", "padding_tokens", "swaps", "http_requests"):
        assert found[f"bertpress_{name}"] == "counter"


def test_gauges_are_read_when_scraped() -> None:
    metrics, values = Metrics(), [1.0]
    metrics.add_gauge("depth", "Depth.", ("model",), lambda: [(("m",), values[0])])
    assert b'bertpress_depth{model="m"} 1.0' in metrics.render()
    values[0] = 2.0
    assert b'bertpress_depth{model="m"} 2.0' in metrics.render()


def test_methods_come_from_a_closed_list() -> None:
    metrics = Metrics()
    for number in range(20):
        metrics.observe_http(f"X{number}", "/", 200, 0.1)
    assert metrics.render().decode().count("bertpress_http_requests_total{") == 1


def test_applications_do_not_share_collectors() -> None:
    Metrics().count_swap("load", "ok")
    assert b"swaps_total{" not in Metrics().render()
