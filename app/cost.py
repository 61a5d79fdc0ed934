"""What a forward pass costs on this machine: measured at warm-up, corrected by every batch that runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

# One batch moves the prediction by a tenth of its error: a hiccup is forgotten, a slower machine is learned.
_LEARNING_RATE = 0.1
# A pass that took this many times longer than predicted says more about the machine's neighbours.
_LARGEST_SURPRISE = 4.0
_LEAST_SECONDS = 1e-5


class CostModel:
    """Seconds of a pass over `rows` rows padded to `length`: bilinear between measured points."""

    def __init__(self, measured: Mapping[tuple[int, int], float]) -> None:
        """`measured` maps (rows, length) to seconds and covers a full grid.

        Raises:
            ValueError: the grid is empty or has a hole.
        """
        self._rows = sorted({rows for rows, _ in measured})
        self._lengths = sorted({length for _, length in measured})
        if len(measured) != len(self._rows) * len(self._lengths) or not measured:
            raise ValueError(f"the measured points do not form a grid: {sorted(measured)}")
        self._seconds = [
            [max(measured[rows, length], _LEAST_SECONDS) for length in self._lengths] for rows in self._rows
        ]

    def __call__(self, rows: int, length: int) -> float:
        """Predicted seconds. Outside the grid the nearest slope goes on."""
        row, down = _locate(self._rows, rows)
        column, right = _locate(self._lengths, length)
        upper = _between(self._seconds[row], column, right)
        if len(self._rows) == 1:
            # Measured for single rows alone: several cost at most as much as one after another.
            return max(upper, _LEAST_SECONDS) * rows
        lower = _between(self._seconds[row + 1], column, right)
        return max(upper + down * (lower - upper), _LEAST_SECONDS)

    def observe(self, rows: int, length: int, seconds: float) -> None:
        """Move the points around (rows, length) towards what a pass really took."""
        surprise = min(seconds / self(rows, length), _LARGEST_SURPRISE) - 1
        row, down = _locate(self._rows, rows)
        column, right = _locate(self._lengths, length)
        for i, row_weight in _weights(row, down, len(self._rows)):
            for j, column_weight in _weights(column, right, len(self._lengths)):
                self._seconds[i][j] *= 1 + _LEARNING_RATE * row_weight * column_weight * surprise


def _locate(grid: Sequence[int], value: int) -> tuple[int, float]:
    """Index of the interval and the place in it: 0 at its start, 1 at its end, beyond that outside."""
    if len(grid) == 1:
        return 0, 0.0
    index = min(max(bisect_right(grid, value) - 1, 0), len(grid) - 2)
    return index, (value - grid[index]) / (grid[index + 1] - grid[index])


def _between(values: Sequence[float], index: int, place: float) -> float:
    if len(values) == 1:
        return values[0]
    return values[index] + place * (values[index + 1] - values[index])


def _weights(index: int, place: float, size: int) -> list[tuple[int, float]]:
    if size == 1:
        return [(0, 1.0)]
    share = min(max(place, 0.0), 1.0)
    return [(index, 1 - share), (index + 1, share)]
