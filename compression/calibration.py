"""Does a probability mean what it says, and the one number that mends it.

Of all answers given with probability 0.8, 80 % should be right. How far that fails is the expected
calibration error; dividing the logits by a temperature, fitted on validation, removes most of it and changes
no label.
Source: Guo et al. 2017, On Calibration of Modern Neural Networks, sections 2 and 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compression.evaluation import Logits, probabilities

_BINS = 15
LOWEST, HIGHEST = 0.05, 20.0


@dataclass(frozen=True)
class Bin:
    """Answers whose probability lies in one interval: how many, their mean probability, and the share of
    them that is right."""

    rows: int
    confidence: float
    accuracy: float


def reliability(logits: Logits, labels: npt.NDArray[np.int64], bins: int = _BINS) -> tuple[Bin, ...]:
    """Answers by the probability of the label they give, in `bins` equal intervals; empty ones are left out.

    Shapes: logits (N, C), labels (N,).
    """
    given = probabilities(logits)
    confidence, right = given.max(-1), given.argmax(-1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return tuple(
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in (which == index for index in range(bins))
        if inside.any()
    )


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean distance of probability from accuracy, each bin counting by its rows.

    Source: Guo et al. 2017, equation 3.
    """
    missed = sum(each.rows * abs(each.confidence - each.accuracy) for each in bins)
    return float(missed / sum(each.rows for each in bins))


def negative_log_likelihood(logits: Logits, labels: npt.NDArray[np.int64], temperature: float = 1.0) -> float:
    """Mean over the rows of -log of the true label's probability. Shapes: (N, C), (N,)."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(-1, keepdims=True)
    chosen = scaled[np.arange(len(labels)), labels]
    return float((np.log(np.exp(scaled).sum(-1)) - chosen).mean())


def fit_temperature(logits: Logits, labels: npt.NDArray[np.int64]) -> float:
    """The temperature that makes the true labels likeliest, between 0.05 and 20. Shapes: (N, C), (N,).

    The likelihood is concave in the inverse of the temperature, so its slope crosses zero once: bisection.
    Each label counts as sure only to (N + 1) / (N + 2): a model that is right on all of a few rows is not
    made certain of everything.

    Source: Platt 1999, Probabilistic Outputs for Support Vector Machines, section 2.2.
    """
    values = np.asarray(logits, dtype=np.float64)
    values = values - values.max(-1, keepdims=True)
    others = (values.sum(-1) - values[np.arange(len(labels)), labels]) / (values.shape[1] - 1)
    doubt = 1 / (len(labels) + 2)
    chosen = (1 - doubt) * values[np.arange(len(labels)), labels] + doubt * others
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        weights = np.exp(values * middle)
        expected = (weights * values).sum(-1) / weights.sum(-1)
        if float((expected - chosen).mean()) < 0:  # the true labels still gain from being surer
            low = middle
        else:
            high = middle
    return round(float(1 / middle), 6)
