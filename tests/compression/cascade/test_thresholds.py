from __future__ import annotations

import itertools

import numpy as np
import pytest

from app.errors import CompressionError
from compression.cascade.thresholds import TierAnswers, candidates, fit, outcome


def tier(name: str, skill: float, cost_ms: float, count: int = 400, seed: int = 0) -> TierAnswers:
    """A tier whose score tells how probably it is right; `skill` moves the scores up."""
    random = np.random.default_rng(seed)
    scores = 0.5 + 0.5 * random.random(count) ** (1 / skill)
    return TierAnswers(name, scores, random.random(count) < scores, cost_ms)


TIERS = (tier("cheap", 1, 0.5, seed=1), tier("fair", 3, 2.0, seed=2), tier("best", 20, 10.0, seed=3))


def walked(tiers: tuple[TierAnswers, ...], thresholds: tuple[float, ...]) -> tuple[float, float, list[int]]:
    """Row by row, in the most obvious way."""
    right, cost, answered = 0, 0.0, [0] * len(tiers)
    for row in range(len(tiers[0].scores)):
        for number, one in enumerate(tiers):
            cost += one.cost_ms
            if number == len(tiers) - 1 or one.scores[row] >= thresholds[number]:
                right += bool(one.right[row])
                answered[number] += 1
                break
    return right, cost, answered


@pytest.mark.parametrize("thresholds", [(0.9, 0.8), (0.0, 0.5), (1.0, 1.0), (0.7, float("inf"))])
def test_rows_take_the_way_that_they_are_served(thresholds: tuple[float, float]) -> None:
    found = outcome(TIERS, thresholds)
    right, cost, answered = walked(TIERS, thresholds)
    assert found.accuracy == right / 400
    assert found.cost_ms == pytest.approx(cost / 400)
    assert found.shares == pytest.approx([count / 400 for count in answered])
    assert sum(found.shares) == pytest.approx(1)


def test_the_cheapest_thresholds_that_hold_the_floor_are_found() -> None:
    few = tuple(TierAnswers(t.name, t.scores[:30], t.right[:30], t.cost_ms) for t in TIERS)
    floor = few[-1].accuracy - 0.07
    found = fit(few, floor)
    every = itertools.product(*([*one.scores.tolist(), float("inf")] for one in few[:-1]))
    cheapest = min(o.cost_ms for t in every if (o := outcome(few, t)).accuracy >= floor)
    assert found.accuracy >= floor
    assert found.cost_ms == pytest.approx(cheapest)
    assert found == outcome(few, found.thresholds)


def test_a_lower_floor_never_costs_more() -> None:
    costs = [fit(TIERS, TIERS[-1].accuracy - loss).cost_ms for loss in (0.01, 0.03, 0.06, 0.1)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0] < TIERS[-1].cost_ms


def test_a_floor_that_cannot_be_held() -> None:
    with pytest.raises(CompressionError, match=r"no thresholds hold an accuracy of 100.00%.*cheap .*best"):
        fit(TIERS, 1.0)


def test_a_tier_that_is_never_believed() -> None:
    wrong = TierAnswers("wrong", TIERS[0].scores, np.zeros(400, dtype=bool), 0.1)
    with pytest.raises(CompressionError, match="no answer of wrong stands"):
        fit((wrong, TIERS[-1]), TIERS[-1].accuracy)


def test_thresholds_settle_the_row_they_come_from() -> None:
    scores = np.array([0.12345678, 0.5, 0.98765432])
    found = candidates(scores, 100)
    assert [int((scores >= threshold).sum()) for threshold in found] == [3, 2, 1, 0]
    assert len(candidates(TIERS[0].scores, 10)) <= 10
