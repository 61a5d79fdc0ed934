from __future__ import annotations

import json

import pytest

from loadtests.summary import Outcome, Summary, percentile, summarize, table


def outcome(intended: float, latency: float, code: str = "200", lag: float = 0.0) -> Outcome:
    return Outcome(intended, intended + lag, intended + latency, code)


def summary_of(outcomes: list[Outcome], **changed: float) -> Summary:
    figures = {"duration_seconds": 10.0, "offered_rate": 1.0, "goal_ms": 500.0, "client_cpu_seconds": 1.0}
    figures.update(changed)
    return summarize(
        outcomes,
        mode="open loop, constant",
        duration_seconds=figures["duration_seconds"],
        offered_rate=figures["offered_rate"],
        goal_ms=figures["goal_ms"],
        client_cpu_seconds=figures["client_cpu_seconds"],
        cores=2,
    )


@pytest.mark.parametrize(("percent", "expected"), [(1, 1), (50, 50), (90, 90), (99, 99), (100, 100)])
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_percentile_of_one_value_and_of_none() -> None:
    assert percentile([3.0], 99) == 3.0
    assert percentile([], 50) is None


def test_latency_counts_from_the_intended_moment_not_from_the_sending() -> None:
    summary = summary_of([outcome(0.0, latency=2.0, lag=1.9)])

    assert summary.p50_ms == pytest.approx(2000)
    assert summary.send_lag_p99_ms == pytest.approx(1900)


def test_errors_are_counted_by_code_and_kept_out_of_the_latencies() -> None:
    outcomes = [
        outcome(0, 0.1),
        outcome(1, 0.001, "429"),
        outcome(2, 10, "timeout"),
        outcome(3, 0.001, "429"),
    ]

    summary = summary_of(outcomes)

    assert summary.errors == {"429": 2, "timeout": 1}
    assert (summary.requests, summary.answered) == (4, 1)
    assert summary.max_ms == pytest.approx(100)


def test_goodput_counts_only_the_answers_within_the_goal() -> None:
    summary = summary_of([outcome(0, 0.1), outcome(1, 0.4), outcome(2, 0.6), outcome(3, 0.1, "500")])

    assert summary.achieved_rate == pytest.approx(0.3)
    assert summary.goodput == pytest.approx(0.2)


def test_a_run_lasts_until_its_last_answer() -> None:
    assert summary_of([outcome(9, 11)]).elapsed_seconds == 20
    assert summary_of([outcome(9, 0.1)]).elapsed_seconds == 10


def test_the_clients_own_cpu_is_told() -> None:
    summary = summary_of([outcome(0, 0.1)], client_cpu_seconds=5.0)

    assert summary.client_cpu_cores == pytest.approx(0.5)
    assert summary.client_cpu_share == pytest.approx(0.25)


def test_a_run_without_answers_has_no_latencies_and_still_prints() -> None:
    summary = summary_of([outcome(0, 1, "connection")])

    assert summary.p99_ms is None
    assert ["latency", "p99", "-"] in [line.split() for line in table(summary).splitlines()]
    assert "connection: 1" in table(summary)


def test_the_summary_is_json() -> None:
    assert json.loads(json.dumps(summary_of([outcome(0, 0.1)]).as_dict()))["answered"] == 1
