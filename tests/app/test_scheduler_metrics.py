"""What a forward pass leaves in the metrics, and when."""

from __future__ import annotations

import pytest

from app.job import Job
from tests.app.test_scheduler import Bench, bench

__all__ = ["bench"]


def test_a_pass_is_counted_before_its_answer_goes_out(bench: Bench) -> None:
    metrics = bench.variant.metrics
    seen: list[tuple[float, float]] = []

    def look(job: Job) -> None:
        seen.append((metrics.tokens.value, metrics.padding.value))
        bench.done.put(job)

    job = bench.job([5, 1], [6, 2, 0, 0, 0], [7, 3])
    job.on_done = look
    bench.scheduler.submit(job)
    bench.scheduler.start()
    bench.done.get()
    passes = sum(metrics.batch_rows.read()[0])
    assert passes == sum(metrics.cost_ratio.read()[0]) == sum(metrics.inference_seconds.read()[0]) >= 1
    assert seen == [(9.0, metrics.padding.value)]
    assert metrics.batch_rows.read()[1] == 3


def test_the_cost_ratio_is_actual_over_predicted(bench: Bench) -> None:
    bench.submit([5, 1])
    bench.scheduler.start()
    bench.done.get()
    # predicted: 3 seconds of the fake cost model; the fake engine needs next to nothing
    assert bench.variant.metrics.cost_ratio.read()[1] == pytest.approx(0.0, abs=0.2)


def test_the_oldest_wait_is_the_longest(bench: Bench) -> None:
    assert bench.scheduler.oldest_wait_seconds(bench.variant) == 0.0
    bench.submit([5, 1])
    bench.clock.now = 7.0
    bench.submit([6, 2], deadline=8.0)
    bench.clock.now = 7.5
    assert bench.scheduler.oldest_wait_seconds(bench.variant) == 7.5


def test_a_job_knows_how_large_its_batch_was(bench: Bench) -> None:
    bench.submit([5, 1], [6, 2], [7, 3])
    bench.scheduler.start()
    assert bench.done.get().batch_rows == 3
