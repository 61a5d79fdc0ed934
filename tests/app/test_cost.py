from __future__ import annotations

import random

import pytest

from app.cost import CostModel, guess, shape_of


def linear(rows: int, length: int) -> float:
    return 0.001 + 0.0001 * rows * length


GRID = {(rows, length): linear(rows, length) for rows in (1, 4) for length in (8, 16, 64, 128)}


def test_measured_points_are_returned() -> None:
    model = CostModel(GRID)
    assert all(model(*point) == pytest.approx(seconds) for point, seconds in GRID.items())


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 32])
@pytest.mark.parametrize("length", [3, 8, 11, 40, 128, 200])
def test_a_bilinear_cost_is_known_everywhere(rows: int, length: int) -> None:
    assert CostModel(GRID)(rows, length) == pytest.approx(linear(rows, length))


def test_single_rows_alone() -> None:
    model = CostModel({(1, 8): 0.001, (1, 16): 0.002})
    assert model(1, 12) == pytest.approx(0.0015)
    assert model(3, 12) == pytest.approx(0.0045)


def test_one_point() -> None:
    model = CostModel({(1, 1): 0.001})
    assert model(1, 500) == pytest.approx(0.001)
    model.observe(1, 500, 0.002)
    assert model(1, 1) == pytest.approx(0.0011)


def test_it_never_predicts_nothing() -> None:
    model = CostModel({(1, 64): 0.001, (1, 128): 0.01})
    assert model(1, 2) > 0


@pytest.mark.parametrize("measured", [{}, {(1, 8): 1.0, (1, 16): 1.0, (4, 8): 1.0}])
def test_a_grid_with_holes_is_refused(measured: dict[tuple[int, int], float]) -> None:
    with pytest.raises(ValueError, match="grid"):
        CostModel(measured)


def test_it_learns_a_slower_machine() -> None:
    model, draw = CostModel(GRID), random.Random(1)
    for _ in range(3000):
        rows, length = draw.randint(1, 4), draw.randint(8, 128)
        model.observe(rows, length, 3 * linear(rows, length))
    for rows, length in ((1, 8), (2, 50), (4, 128)):
        assert model(rows, length) == pytest.approx(3 * linear(rows, length), rel=0.05)


def test_a_hiccup_moves_it_little() -> None:
    model = CostModel(GRID)
    model.observe(1, 64, 1000.0)
    assert model(1, 64) < 1.5 * linear(1, 64)


def test_an_estimate_is_fitted_to_a_few_passes() -> None:
    model = CostModel(GRID, estimated=GRID)
    passes = [(8, 3 * linear(1, 8)), (9, 9 * linear(1, 9)), (128, 2 * linear(1, 128))]
    model.fit(passes)
    assert model(1, 8) == pytest.approx(3 * linear(1, 8)), "of two alike the quicker one is believed"
    assert model(1, 128) == pytest.approx(2 * linear(1, 128))
    assert model(4, 128) == pytest.approx(2 * linear(4, 128))
    assert 2 * linear(1, 16) < model(1, 16) < 3 * linear(1, 16)
    assert model(1, 4) == pytest.approx(3 * linear(1, 4), rel=0.05)
    assert model.estimated == set(GRID)
    assert model.measured == {}


def test_nothing_to_fit() -> None:
    model = CostModel(GRID, estimated=GRID)
    model.fit([])
    assert model(4, 64) == pytest.approx(linear(4, 64))


def test_what_was_measured_is_not_fitted() -> None:
    model = CostModel(GRID)
    model.fit([(16, 1.0)])
    assert model(1, 16) == pytest.approx(linear(1, 16))


def test_a_measured_point_takes_the_estimates_along() -> None:
    model = CostModel(GRID, estimated=GRID)
    model.measure((1, 8), 2 * linear(1, 8))
    assert model.measured == {(1, 8): pytest.approx(2 * linear(1, 8))}
    assert model(4, 128) == pytest.approx(2 * linear(4, 128))
    model.measure((4, 128), 5 * linear(4, 128))
    assert model(1, 8) == pytest.approx(2 * linear(1, 8))
    assert model(1, 64) == pytest.approx(5 * linear(1, 64))
    assert model.estimated == set(GRID) - {(1, 8), (4, 128)}


def test_measured_again_it_moves_nothing_else() -> None:
    model = CostModel(GRID, estimated=[(4, 128)])
    model.measure((1, 8), 1.0)
    assert model(4, 128) == pytest.approx(linear(4, 128))


def test_the_first_passes_near_an_estimate_teach_more() -> None:
    measured, estimated = CostModel(GRID), CostModel(GRID, estimated=GRID)
    for model in (measured, estimated):
        model.observe(4, 128, 2 * linear(4, 128))
    assert measured(4, 128) == pytest.approx(1.1 * linear(4, 128), rel=0.01)
    assert estimated(4, 128) == pytest.approx(2 * linear(4, 128))


def test_what_is_too_long_to_measure_goes_on_as_the_longest_that_is_not() -> None:
    model = CostModel(GRID, estimated=GRID)
    measured = {(1, 8): 1.0, (1, 16): 2.0, (1, 64): 9.0, (1, 128): 20.0, (4, 8): 2.0, (4, 16): 8.8}
    for point, seconds in measured.items():
        model.measure(point, seconds)
    model.extend()
    assert model(4, 64) == pytest.approx(4.4 * 9.0)
    assert model(4, 128) == pytest.approx(4.4 * 20.0)
    assert {point: model(*point) for point in measured} == pytest.approx(measured)
    assert (4, 128) in model.estimated


def test_what_passes_have_shown_is_not_extended_over() -> None:
    model = CostModel(GRID, estimated=[(4, 128)])
    model.observe(4, 128, 3 * linear(4, 128))
    model.extend()
    assert model(4, 128) == pytest.approx(3 * linear(4, 128))


def test_with_nothing_measured_there_is_nothing_to_go_on_from() -> None:
    model = CostModel(GRID, estimated=GRID)
    before = model.points
    model.extend()
    assert model.points == before


def test_a_guess_makes_the_batcher_try_a_batch() -> None:
    assert guess(2, 64) < 2 * guess(1, 64)
    assert guess(1, 64) < guess(1, 65)
    assert shape_of({}) is guess


def test_a_published_table_bends_the_guess() -> None:
    shape = shape_of({(1, 32): 0.003, (1, 128): 0.010, (8, 128): 0.080})
    assert shape(1, 32) == pytest.approx(0.003)
    assert 0.003 < shape(1, 64) < 0.010
    assert shape(1, 256) / shape(1, 128) == pytest.approx(guess(1, 256) / guess(1, 128))
    assert shape(8, 128) / shape(1, 128) == pytest.approx(guess(8, 128) / guess(1, 128))
