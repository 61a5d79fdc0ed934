"""Labels with their scores, best first: how Hugging Face's clients read an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, Field

from app.answer import Prediction


class LabelScore(BaseModel):
    """One label of a text."""

    label: str
    score: float = Field(description="the label's probability unless the request asks for something else")


def probabilities(prediction: Prediction) -> Sequence[float]:
    """Softmax of the logits, calibrated as the artifact says."""
    return prediction.probabilities


def sigmoids(prediction: Prediction) -> Sequence[float]:
    """Each logit on its own squeezed to (0, 1)."""
    return [_sigmoid(logit) for logit in prediction.logits]


def logits(prediction: Prediction) -> Sequence[float]:
    """What the model gives, unchanged."""
    return prediction.logits


SCORES: Mapping[str, Callable[[Prediction], Sequence[float]]] = {
    "softmax": probabilities,
    "sigmoid": sigmoids,
    "none": logits,
}


def ranked(
    labels: Sequence[str], scores: Sequence[float], most: int | None = None
) -> list[dict[str, object]]:
    """The `most` best labels with their scores, best first; equal ones in the model's order."""
    pairs = sorted(zip(scores, labels, strict=True), key=lambda pair: -pair[0])
    return [{"label": label, "score": score} for score, label in pairs[:most]]


def _sigmoid(value: float) -> float:
    # exp of a large positive number overflows
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))
