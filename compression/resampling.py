"""How sure a figure is: intervals by the bootstrap, and whether two models differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_RESAMPLES = 1000

# Row numbers, some of them several times, to a figure of those rows.
Statistic = Callable[[npt.NDArray[np.int64]], float]


def bootstrap_interval(
    statistic: Statistic, rows: int, resamples: int = _RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a figure: what it is on rows drawn anew, with replacement.

    A draw for which the figure does not exist (one class alone has no AUC) is left out.
    Source: Efron, Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    generator = np.random.default_rng(seed)
    found = [statistic(generator.integers(0, rows, rows)) for _ in range(resamples)]
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """Rows that only one of two models gets right, and how probable so uneven a division is by chance."""

    only_ours: int
    only_theirs: int
    p_value: float


def mcnemar(ours_right: npt.NDArray[np.bool_], theirs_right: npt.NDArray[np.bool_]) -> McNemar:
    """Exact two-sided test on the rows that exactly one of two models gets right. Shapes: (N,) both.

    Source: McNemar 1947; exact form: Edwards 1948 without his correction, the binomial at one half.
    """
    only_ours = int((ours_right & ~theirs_right).sum())
    only_theirs = int((theirs_right & ~ours_right).sum())
    return McNemar(only_ours, only_theirs, _two_sided(min(only_ours, only_theirs), only_ours + only_theirs))


def _two_sided(fewer: int, rows: int) -> float:
    """Twice the probability of at most `fewer` heads in so many throws of a fair coin; 1 at most."""
    logarithms = [
        math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1) - rows * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * sum(map(math.exp, logarithms)))
