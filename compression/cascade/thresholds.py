"""From which score on a tier's answer stands: the cheapest choice that holds an accuracy.

A text goes to the first tier; where the largest probability reaches the tier's threshold its answer stands,
else the next tier is asked, whose cost comes on top. The last tier's answers always stand.

Source: Viola, Jones 2001, Rapid Object Detection using a Boosted Cascade (the attentional cascade); Varshney,
Baral 2022, Model Cascading: Towards Jointly Improving Efficiency and Accuracy of NLP Systems, section 3
(maximum probability as the confidence).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.errors import CompressionError

# Combinations of thresholds that are tried; with more tiers each has a coarser choice.
_COMBINATIONS = 20_000
_MOST_CANDIDATES = 1_000
_DIGITS = 6


@dataclass(frozen=True)
class TierAnswers:
    """A tier asked about every row. Shapes: scores, right (N,). `cost_ms` is one text."""

    name: str
    scores: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    cost_ms: float

    @property
    def accuracy(self) -> float:
        """Share of the rows it answers rightly."""
        return float(self.right.mean())


@dataclass(frozen=True)
class Outcome:
    """What thresholds, one for each tier but the last, come to. `shares` are the texts each tier answers."""

    thresholds: tuple[float, ...]
    accuracy: float
    cost_ms: float
    shares: tuple[float, ...]


def outcome(tiers: Sequence[TierAnswers], thresholds: Sequence[float]) -> Outcome:
    """Walk all rows through the tiers."""
    count = len(tiers[0].scores)
    left = np.ones(count, dtype=bool)
    right, cost, shares = 0, 0.0, []
    for tier, threshold in zip(tiers, (*thresholds, -np.inf), strict=True):
        cost += tier.cost_ms * int(left.sum())
        settled = left & (tier.scores >= threshold)
        right += int((settled & tier.right).sum())
        shares.append(float(settled.sum()) / count)
        left &= ~settled
    return Outcome(tuple(thresholds), right / count, cost / count, tuple(shares))


def fit(tiers: Sequence[TierAnswers], floor: float) -> Outcome:
    """The cheapest thresholds with which at least `floor` of the rows are answered rightly.

    Raises:
        CompressionError: no thresholds hold the floor, or a tier would be asked and never believed.
    """
    count = min(int(_COMBINATIONS ** (1 / (len(tiers) - 1))), _MOST_CANDIDATES)
    choices = [candidates(tier.scores, count) for tier in tiers[:-1]]
    tried = (outcome(tiers, thresholds) for thresholds in itertools.product(*choices))
    holding = [found for found in tried if found.accuracy >= floor]
    if not holding:
        alone = ", ".join(f"{tier.name} {tier.accuracy:.2%}" for tier in tiers)
        raise CompressionError(
            f"no thresholds hold an accuracy of {floor:.2%} on these {len(tiers[0].scores)} texts (alone: "
            f"{alone}); lower the floor, or add a better tier"
        )
    best = min(holding, key=lambda found: (found.cost_ms, -found.accuracy))
    for tier, share in zip(tiers[:-1], best.shares, strict=False):
        if share == 0:
            raise CompressionError(
                f"at an accuracy of {floor:.2%} no answer of {tier.name} stands: it would only cost; "
                "leave it out, or lower the floor"
            )
    return best


def candidates(scores: npt.NDArray[np.float64], count: int) -> list[float]:
    """At most so many thresholds, each settling another share of the rows; the last settles none."""
    quantiles = np.quantile(scores, np.linspace(0, 1, max(count - 1, 1)), method="lower")
    # Rounded downwards: the row a threshold comes from stays settled.
    rounded = np.floor(quantiles * 10**_DIGITS) / 10**_DIGITS
    return [*np.unique(rounded).tolist(), float("inf")]
