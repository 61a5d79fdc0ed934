from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry, exposition
from prometheus_client import Histogram as PlainHistogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from app.collectors import CounterFamily, HistogramFamily, Reading

BOUNDS = (0.1, 1.0, 2.5)


def exposed(*collectors: object) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)  # type: ignore[arg-type]
    text = exposition.generate_latest(registry).decode()
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.filterwarnings("default")
def test_a_histogram_says_what_the_clients_own_would_say() -> None:
    plain = PlainHistogram("x_seconds", "X.", ["m"], buckets=BOUNDS, registry=None)
    ours = HistogramFamily("x_seconds", "X.", ["m"], BOUNDS)
    for value in (0.0, 0.1, 0.10001, 1.0, 2.5, 2.6, 400.0):
        plain.labels("a").observe(value)
        ours.labels("a").observe(value)
    theirs = {key: value for key, value in exposed(plain).items() if not key[0].endswith("_created")}
    assert exposed(ours) == theirs


def test_a_counter_counts_by_label() -> None:
    family = CounterFamily("things", "Things.", ["kind"])
    family.labels("a").inc()
    family.labels("a").inc(2.5)
    family.labels("b").inc(0)
    assert exposed(family) == {("things_total", "kind=a"): 3.5, ("things_total", "kind=b"): 0.0}


def test_a_child_is_made_once() -> None:
    family = CounterFamily("things", "Things.", ["kind"])
    assert family.labels("a") is family.labels("a")
    assert exposed(CounterFamily("none", "None.", ["kind"])) == {}


def test_label_values_are_counted() -> None:
    with pytest.raises(ValueError, match="kind"):
        CounterFamily("things", "Things.", ["kind"]).labels("a", "b")


def test_nothing_is_lost_between_threads() -> None:
    counter, histogram = CounterFamily("c", "C."), HistogramFamily("h", "H.", [], BOUNDS)

    def work() -> None:
        for _ in range(2000):
            counter.labels().inc()
            histogram.labels().observe(1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = exposed(counter, histogram)
    assert found["c_total",] == found["h_count",] == found["h_bucket", "le=1.0"] == 8000
    assert found["h_bucket", "le=0.1"] == 0
    assert found["h_sum",] == 8000


def test_what_others_count_is_read_when_scraped() -> None:
    values = [1.0]
    reading = Reading(CounterMetricFamily, "c", "C.", ("k",), lambda: [(("a",), values[0])])
    registry = CollectorRegistry()
    registry.register(reading)
    values[0] = 7.0
    assert b'c_total{k="a"} 7.0' in exposition.generate_latest(registry)
