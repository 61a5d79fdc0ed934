"""From the outcomes of single requests to the figures of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

ANSWERED = "200"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request; times are seconds since the start of the run.

    `code` is the HTTP status, or `timeout` or `connection` where there was none.
    """

    intended_seconds: float
    sent_seconds: float
    done_seconds: float
    code: str

    @property
    def latency_seconds(self) -> float:
        """From the moment the request should have left: waiting inside the client counts."""
        return self.done_seconds - self.intended_seconds


@dataclass(frozen=True)
class Summary:
    """The figures of one run. Rates are requests a second; latencies are of the requests answered 200."""

    mode: str
    requests: int
    answered: int
    errors: dict[str, int]
    elapsed_seconds: float
    offered_rate: float | None
    achieved_rate: float
    goal_ms: float
    goodput: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    send_lag_p99_ms: float | None
    client_cpu_cores: float
    client_cpu_share: float

    def as_dict(self) -> dict[str, object]:
        """The summary as JSON takes it."""
        return asdict(self)


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Nearest-rank percentile of ascending values; None when there are none."""
    if not ordered:
        return None
    rank = max(1, math.ceil(percent / 100 * len(ordered)))
    return ordered[rank - 1]


def summarize(
    outcomes: Sequence[Outcome],
    *,
    mode: str,
    duration_seconds: float,
    offered_rate: float | None,
    goal_ms: float,
    client_cpu_seconds: float,
    cores: int,
) -> Summary:
    """Condense a run. It lasts until its last answer, and at least `duration_seconds`."""
    elapsed = max([duration_seconds, *(outcome.done_seconds for outcome in outcomes)])
    answered = [outcome for outcome in outcomes if outcome.code == ANSWERED]
    latencies = sorted(outcome.latency_seconds * 1000 for outcome in answered)
    lags = sorted((outcome.sent_seconds - outcome.intended_seconds) * 1000 for outcome in outcomes)
    errors = Counter(outcome.code for outcome in outcomes if outcome.code != ANSWERED)
    busy_cores = client_cpu_seconds / elapsed
    return Summary(
        mode=mode,
        requests=len(outcomes),
        answered=len(answered),
        errors=dict(sorted(errors.items())),
        elapsed_seconds=elapsed,
        offered_rate=offered_rate,
        achieved_rate=len(answered) / elapsed,
        goal_ms=goal_ms,
        goodput=sum(latency <= goal_ms for latency in latencies) / elapsed,
        p50_ms=percentile(latencies, 50),
        p90_ms=percentile(latencies, 90),
        p99_ms=percentile(latencies, 99),
        max_ms=percentile(latencies, 100),
        send_lag_p99_ms=percentile(lags, 99),
        client_cpu_cores=busy_cores,
        client_cpu_share=busy_cores / cores,
    )


def table(summary: Summary) -> str:
    """The summary for a reader: one line a figure."""
    errors = ", ".join(f"{code}: {count}" for code, count in summary.errors.items()) or "none"
    offered = "as fast as answers come" if summary.offered_rate is None else f"{summary.offered_rate:.1f} /s"
    rows = [
        ("mode", summary.mode),
        ("requests", f"{summary.requests} in {summary.elapsed_seconds:.1f} s"),
        ("offered rate", offered),
        ("achieved rate", f"{summary.achieved_rate:.1f} answers/s"),
        ("goodput", f"{summary.goodput:.1f} answers/s within {summary.goal_ms:g} ms"),
        ("latency p50", _milliseconds(summary.p50_ms)),
        ("latency p90", _milliseconds(summary.p90_ms)),
        ("latency p99", _milliseconds(summary.p99_ms)),
        ("latency max", _milliseconds(summary.max_ms)),
        ("errors by code", errors),
        ("client sent late, p99", _milliseconds(summary.send_lag_p99_ms)),
        (
            "client CPU",
            f"{summary.client_cpu_cores:.2f} cores, {summary.client_cpu_share:.0%} of the machine",
        ),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
