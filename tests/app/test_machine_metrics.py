from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from app.hardware import Hardware
from app.machine_metrics import add_machine_metrics
from app.metrics import Metrics
from app.settings import Settings


def test_the_machine_can_be_seen() -> None:
    metrics = Metrics()
    add_machine_metrics(metrics, Hardware("x", frozenset(), 2, 0), Settings())
    families = {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}
    for name in ("process_cpu_seconds", "cpu_periods", "cpu_throttled_periods", "cpu_throttled_seconds"):
        family = families[f"bertpress_{name}"]
        assert family.type == "counter"
        assert [sample.value >= 0 for sample in family.samples] == [True]
    assert families["bertpress_usable_cores"].samples[0].value == 2
    (joules,) = families["bertpress_energy_joules"].samples
    (watts,) = families["bertpress_power_watts"].samples
    assert joules.labels == watts.labels
    assert joules.labels["source"] in ("rapl", "estimate")
    assert joules.value > 0
