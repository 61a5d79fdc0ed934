from __future__ import annotations

from itertools import pairwise
from random import Random
from statistics import mean, stdev

import pytest

from app.errors import SettingsError
from loadtests import schedule


def test_constant_arrivals_are_evenly_spaced_and_start_at_once() -> None:
    assert schedule.constant(4, 1.5) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_poisson_arrivals_ascend_within_the_duration() -> None:
    offsets = schedule.poisson(100, 5, Random(0))

    assert offsets == sorted(offsets)
    assert offsets[0] > 0 and offsets[-1] < 5


def test_poisson_gaps_have_the_mean_and_spread_of_an_exponential() -> None:
    offsets = schedule.poisson(200, 100, Random(1))
    gaps = [later - earlier for earlier, later in pairwise(offsets)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5

    assert mean == pytest.approx(1 / 200, rel=0.03)
    assert spread == pytest.approx(mean, rel=0.03)


def test_a_seed_gives_the_same_arrivals_again() -> None:
    assert schedule.poisson(50, 2, Random(7)) == schedule.poisson(50, 2, Random(7))
    assert schedule.poisson(50, 2, Random(7)) != schedule.poisson(50, 2, Random(8))


@pytest.mark.parametrize(
    ("rate", "duration_seconds", "message"),
    [
        (0, 10, "the rate is 0"),
        (-1, 10, "the rate is -1"),
        (float("nan"), 10, "the rate is nan"),
        (10, 0, "the duration is 0 s"),
        (10, 601, "at most 600 s"),
        (10, float("inf"), "at most 600 s"),
        (1000, 600, "more than 200000 requests"),
    ],
)
def test_unbounded_runs_are_refused(rate: float, duration_seconds: float, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        schedule.constant(rate, duration_seconds)
    with pytest.raises(SettingsError, match=message):
        schedule.poisson(rate, duration_seconds, Random(0))


def test_poisson_never_exceeds_the_largest_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MAX_REQUESTS", 100)

    assert len(schedule.poisson(10, 10, Random(0))) <= 100


def test_scattered_arrivals_are_as_many_as_the_rate_says_at_moments_of_their_seed() -> None:
    offsets = schedule.scattered(50, 2, Random(0))

    assert len(offsets) == 100
    assert offsets == sorted(offsets) == schedule.scattered(50, 2, Random(0))
    assert offsets != schedule.scattered(50, 2, Random(1))
    assert 0 <= offsets[0] < offsets[-1] <= 2


def test_scattered_arrivals_come_in_bursts_as_independent_callers_do() -> None:
    """The gaps of a Poisson process are spread as widely as they are long; even ones not at all."""
    offsets = schedule.scattered(100, 20, Random(0))
    gaps = [later - earlier for earlier, later in pairwise(offsets)]

    assert stdev(gaps) == pytest.approx(mean(gaps), rel=0.15)
