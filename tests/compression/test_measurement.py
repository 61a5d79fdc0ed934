from __future__ import annotations

import time

import numpy as np
import pytest

from compression import measurement
from compression.measurement import interleaved, latency


class Clock:
    """Time that passes only when a call says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def test_calls_take_turns_and_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = Clock(monkeypatch), []

    def call(name: str, seconds: float) -> None:
        made.append(name)
        clock.now += seconds

    calls = {"a": lambda: call("a", 0.25), "b": lambda: call("b", 2.0)}
    assert interleaved(calls, rounds=3, warmup=2) == {"a": [0.25] * 3, "b": [2.0] * 3}
    assert made == ["a", "b"] * 5


def test_latency_is_the_median_at_each_length(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shapes = Clock(monkeypatch), []

    def model(factor: float) -> measurement.Predict:
        turns = 0

        def predict(input_ids: np.ndarray, attention_mask: np.ndarray) -> None:
            nonlocal turns
            turns += 1
            shapes.append(input_ids.shape)
            assert input_ids.shape == attention_mask.shape
            assert attention_mask.all()
            assert input_ids.min() >= 5
            # One round in five is ten times slower: the median does not show it, the 90th percentile does.
            clock.now += factor * input_ids.shape[1] * (10 if turns % 5 == 0 else 1) / 1000

        return predict

    points = latency({"ours": model(0.5), "theirs": model(2.0)}, [8, 32], rounds=20)
    assert [(p.rows, p.tokens, p.median_ms) for p in points["ours"]] == [(1, 8, 4.0), (1, 32, 16.0)]
    assert [p.median_ms for p in points["theirs"]] == [16.0, 64.0]
    assert [p.p90_ms for p in points["ours"]] == [40.0, 160.0]
    assert set(shapes) == {(1, 8), (1, 32)}


def test_batches_are_measured_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def predict(input_ids: np.ndarray, attention_mask: np.ndarray) -> None:
        clock.now += input_ids.size / 1000

    (point,) = latency({"ours": predict}, [8], rounds=5, rows=4)["ours"]
    assert (point.rows, point.tokens, point.median_ms) == (4, 8, 32.0)


def test_processor_time_counts_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, computed = Clock(monkeypatch), [0.0]
    monkeypatch.setattr(time, "process_time", lambda: computed[0])

    def call() -> None:
        clock.now += 1.0
        computed[0] += 0.25

    assert interleaved({"a": call}, rounds=2, processor_time=True) == {"a": [0.25] * 2}
