"""The highest rate a server sustains, found by trying. Pure: whoever searches does the trying."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# The search ends when the bracket is this narrow, or when this many rates were tried.
RESOLUTION = 0.04
MOST_RUNS = 8
_WIDEN = 1.3


@dataclass(frozen=True, slots=True)
class Found:
    """The highest rate sustained (0 if none was), the lowest that was not, and how many were tried."""

    rate: float
    too_much: float | None
    runs: int


@dataclass(slots=True)
class Search:
    """Bisects between two rates, geometrically; neither bound needs to be right.

    While nothing was sustained the lower bound falls when it is reached, and while nothing was too much the
    upper one rises, each by a third at a time. A rate is tried once: what one run says is taken for true.
    """

    low: float
    high: float
    _tried: dict[float, bool] = field(default_factory=dict)

    def next_rate(self) -> float | None:
        """The rate to try, or None when there is nothing left to find out."""
        if len(self._tried) >= MOST_RUNS or not self.low > 0:
            return None
        if self.high / self.low < 1 + RESOLUTION:
            if len(set(self._tried.values())) == 2:
                return None
            if True in self._tried.values():
                self.high *= _WIDEN
            else:
                self.low /= _WIDEN
        return math.sqrt(self.low * self.high)

    def learn(self, rate: float, sustained: bool) -> None:
        """What became of a rate that was tried."""
        self._tried[rate] = sustained
        if sustained:
            self.low = rate
        else:
            self.high = rate

    @property
    def found(self) -> Found:
        """What is known so far."""
        sustained = [rate for rate, held in self._tried.items() if held]
        too_much = [rate for rate, held in self._tried.items() if not held]
        return Found(max(sustained, default=0.0), min(too_much, default=None), len(self._tried))
