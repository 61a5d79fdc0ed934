from __future__ import annotations

import random

import pytest

from app.forecast import Forecast, LoopLag


def test_at_first_predictions_are_believed() -> None:
    assert Forecast().seconds(3.0) == 3.0


@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.7, 3.0])
def test_a_steady_error_is_learned(ratio: float) -> None:
    forecast = Forecast()
    for _ in range(500):
        forecast.observe(2.0, 2.0 * ratio)
    assert forecast.seconds(2.0) == pytest.approx(2.0 * ratio, rel=0.03)


def test_what_varies_is_kept_nearly_always() -> None:
    forecast, draw = Forecast(), random.Random(0)
    ratios = [draw.uniform(0.8, 1.6) for _ in range(2000)]
    for ratio in ratios:
        forecast.observe(2.0, 2.0 * ratio)
    assert sum(2.0 * ratio <= forecast.seconds(2.0) for ratio in ratios) > 0.95 * len(ratios)


def test_room_grows_with_the_root_of_a_wait_and_not_with_the_wait() -> None:
    # A wait is that for passes of 20 to 60 ms, which one is as likely as another.
    forecast, draw = Forecast(), random.Random(0)

    def waited(passes: int) -> float:
        return sum(draw.uniform(0.02, 0.06) for _ in range(passes))

    for _ in range(2000):
        forecast.observe(0.04 * 2, waited(2))
    for passes in (1, 4, 10):
        waits = [waited(passes) for _ in range(500)]
        kept = sum(wait <= forecast.seconds(0.04 * passes) for wait in waits) / len(waits)
        assert kept > 0.95
    assert forecast.seconds(0.04 * 10) < 0.04 * 10 * 1.3, "as sure of ten passes as of two, by less each"


def test_the_noise_of_short_waits_teaches_little() -> None:
    forecast = Forecast()
    for _ in range(10):
        forecast.observe(0.0001, 1.0)
    assert forecast.seconds(1.0) == pytest.approx(1.0, abs=0.05)


def test_it_stays_within_bounds() -> None:
    forecast = Forecast()
    for actual in (0.0, 1e9):
        for _ in range(1000):
            forecast.observe(1.0, actual)
        assert forecast.seconds(1.0) in (0.5, 4.0)


def test_what_was_not_predicted_teaches_nothing() -> None:
    forecast = Forecast()
    forecast.observe(0.0, 5.0)
    assert forecast.seconds(1.0) == 1.0


def test_long_waits_outweigh_many_short_ones() -> None:
    forecast = Forecast()
    for _ in range(300):
        forecast.observe(0.001, 0.004)
        forecast.observe(1.0, 1.0)
    assert forecast.seconds(1.0) == pytest.approx(1.0, abs=0.1)


def test_a_loop_that_keeps_up_needs_no_allowance() -> None:
    assert LoopLag().allowance(10.0) == 0.0


def test_a_loop_that_is_behind_needs_its_lag_on_both_ways() -> None:
    lag = LoopLag()
    for _ in range(1000):
        lag.observe(0.02)
    assert lag.allowance(10.0) == pytest.approx(0.04, rel=0.05)


def test_the_allowance_leaves_room_to_learn_that_the_loop_has_caught_up() -> None:
    lag = LoopLag()
    for _ in range(1000):
        lag.observe(5.0)
    assert lag.allowance(0.1) == pytest.approx(0.05)
    assert lag.allowance(-1.0) == 0.0
    for _ in range(1000):
        lag.observe(0.0)
    assert lag.allowance(0.1) < 0.001
