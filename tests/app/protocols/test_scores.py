from __future__ import annotations

import math

import pytest

from app.answer import Prediction
from app.protocols.scores import SCORES, ranked

PREDICTION = Prediction("b", (-1000.0, 1000.0, 0.0), (0.1, 0.7, 0.2), 3, False)


def test_the_functions() -> None:
    assert list(SCORES["softmax"](PREDICTION)) == [0.1, 0.7, 0.2]
    assert list(SCORES["none"](PREDICTION)) == [-1000.0, 1000.0, 0.0]
    assert list(SCORES["sigmoid"](PREDICTION)) == [0.0, 1.0, 0.5]


@pytest.mark.parametrize("logit", [-30.0, -2.5, 0.0, 1.5, 30.0])
def test_sigmoid(logit: float) -> None:
    (found,) = SCORES["sigmoid"](Prediction("a", (logit,), (1.0,), 1, False))
    assert found == pytest.approx(1 / (1 + math.exp(-logit)))


def test_best_first_and_ties_in_the_models_order() -> None:
    assert [row["label"] for row in ranked(("a", "b", "c"), (0.25, 0.5, 0.25))] == ["b", "a", "c"]
    assert [row["label"] for row in ranked(("a", "b", "c"), (0.25, 0.5, 0.25), 2)] == ["b", "a"]
