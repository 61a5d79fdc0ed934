from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from compression.evaluation import accuracy_interval
from compression.resampling import bootstrap_interval, mcnemar

RIGHT = np.random.default_rng(0).random(400) < 0.9


def test_the_interval_of_a_share_is_near_wilsons() -> None:
    low, high = bootstrap_interval(lambda rows: float(RIGHT[rows].mean()), 400, resamples=4000)
    assert (low, high) == pytest.approx(accuracy_interval(float(RIGHT.mean()), 400), abs=0.008)


def test_the_interval_is_that_of_the_drawn_rows() -> None:
    drawn: list[np.ndarray] = []

    def statistic(rows: np.ndarray) -> float:
        drawn.append(rows)
        return float(rows.mean())

    found = bootstrap_interval(statistic, 50, resamples=200, seed=3)
    values = sorted(float(rows.mean()) for rows in drawn)
    assert found == pytest.approx((np.quantile(values, 0.025), np.quantile(values, 0.975)))
    assert len(values) == 200
    assert all(len(rows) == 50 and rows.min() >= 0 and rows.max() < 50 for rows in drawn)
    assert any(len(set(rows.tolist())) < 50 for rows in drawn), "with replacement"


def test_a_draw_without_the_figure_is_left_out() -> None:
    values = iter([math.nan, *[0.5] * 9])
    assert bootstrap_interval(lambda _: next(values), 5, resamples=10) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("only_ours", "only_theirs"), [(0, 0), (3, 11), (40, 25), (7, 7), (0, 6), (900, 1100)]
)
def test_mcnemar_is_the_exact_binomial_test(only_ours: int, only_theirs: int) -> None:
    ours = np.array([True] * only_ours + [False] * only_theirs + [True] * 20 + [False] * 5)
    theirs = np.array([False] * only_ours + [True] * only_theirs + [True] * 20 + [False] * 5)
    found = mcnemar(ours, theirs)
    assert (found.only_ours, found.only_theirs) == (only_ours, only_theirs)
    different = only_ours + only_theirs
    expected = stats.binomtest(only_ours, different, 0.5).pvalue if different else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-6)
