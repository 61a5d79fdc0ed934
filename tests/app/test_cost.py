from __future__ import annotations

import random

import pytest

from app.cost import CostModel


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
