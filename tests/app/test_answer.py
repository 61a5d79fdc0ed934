from __future__ import annotations

import math

import numpy as np
import pytest

from app.answer import Prediction, predict, softmax
from app.tokenizer import Encoded


def encoded(length: int = 5, truncated: bool = False) -> Encoded:
    return Encoded(np.arange(length, dtype=np.int64), truncated)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("logits", [(0.0, 0.0), (-3.0, 2.5), (1e4, -1e4, 3.0), (5.0, 5.0, 5.0, 1.0)])
def test_softmax_is_the_definition(logits: tuple[float, ...], temperature: float) -> None:
    scaled = np.array(logits) / temperature
    slow = np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum()
    assert softmax(logits, temperature) == pytest.approx(slow.tolist(), abs=1e-12)
    assert math.isclose(sum(softmax(logits, temperature)), 1.0)


def test_the_label_is_the_largest_probabilitys() -> None:
    prediction = predict(np.array([0.5, 2.0, -1.0], np.float32), encoded(7, True), ("a", "b", "c"), 1.0)
    assert (prediction.label, prediction.tokens, prediction.truncated) == ("b", 7, True)
    assert prediction.logits == (0.5, 2.0, -1.0)
    assert prediction.score == max(prediction.probabilities)


def test_of_equals_the_first() -> None:
    assert predict(np.zeros(2, np.float32), encoded(), ("a", "b"), 1.0).label == "a"


def test_logits_past_the_last_label_do_not_count() -> None:
    prediction = predict(np.array([0.0, 1.0, 99.0], np.float32), encoded(), ("a", "b"), 2.0)
    assert prediction.probabilities == softmax((0.0, 1.0), 2.0)
    assert prediction.logits == (0.0, 1.0)


def test_a_prediction_cannot_be_changed() -> None:
    prediction = Prediction("a", (0.0,), (1.0,), 3, False)
    with pytest.raises(AttributeError):
        prediction.label = "b"  # type: ignore[misc]
