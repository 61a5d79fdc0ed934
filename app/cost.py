"""What a forward pass costs on this machine: estimated, measured, and corrected by every pass that runs.

A model begins with a shape (the manifest's table, or a plain guess) and the scale that a few passes at start
give it. Points measured one by one replace what was estimated, and move the rest with them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import exp, log

Point = tuple[int, int]
"""Rows, and the length they are padded to."""

# One pass moves the prediction by a tenth of its error: a hiccup is forgotten, a slower machine is learned.
# The first passes near a point that was never measured move it by more.
_LEARNING_RATE = 0.1
# A pass that took this many times longer than predicted says more about the machine's neighbours.
_LARGEST_SURPRISE = 4.0
_LEAST_SECONDS = 1e-5
# A pass costs as though it had so many tokens more: batches of short texts pay. Of long ones they hardly do,
# but a guess that they pay a little makes the batcher try one, and then the cost of it is known.
_GUESSED_FIXED_TOKENS = 8
# Lengths that differ by less tell the same.
_ALIKE = 1.5


class CostModel:
    """Seconds of a pass over `rows` rows padded to `length`: bilinear between the points of a grid."""

    def __init__(self, seconds: Mapping[Point, float], estimated: Collection[Point] = ()) -> None:
        """`seconds` covers a full grid; the points in `estimated` were not measured on this machine.

        Raises:
            ValueError: the grid is empty or has a hole.
        """
        self._rows = sorted({rows for rows, _ in seconds})
        self._lengths = sorted({length for _, length in seconds})
        if len(seconds) != len(self._rows) * len(self._lengths) or not seconds:
            raise ValueError(f"the measured points do not form a grid: {sorted(seconds)}")
        self._seconds = [
            [max(seconds[rows, length], _LEAST_SECONDS) for length in self._lengths] for rows in self._rows
        ]
        self._estimated = set(estimated)
        # how much every point has seen: measured ones count as ten passes, the lasting learning rate
        self._seen = [
            [0.0 if (rows, length) in self._estimated else 1 / _LEARNING_RATE for length in self._lengths]
            for rows in self._rows
        ]

    @property
    def points(self) -> dict[Point, float]:
        """The grid as it stands."""
        return {
            (rows, length): self._seconds[i][j]
            for i, rows in enumerate(self._rows)
            for j, length in enumerate(self._lengths)
        }

    @property
    def measured(self) -> dict[Point, float]:
        """The part of the grid that was measured."""
        return {point: seconds for point, seconds in self.points.items() if point not in self._estimated}

    @property
    def estimated(self) -> frozenset[Point]:
        """Points that nobody has measured yet."""
        return frozenset(self._estimated)

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

    def fit(self, passes: Iterable[tuple[int, float]]) -> None:
        """Bend what is estimated through passes of one row each: (tokens, seconds).

        Does nothing once a point is measured: that one has moved the others already.
        """
        if len(self._estimated) < len(self._rows) * len(self._lengths):
            return
        lengths, bends = _bends((tokens, seconds / self(1, tokens)) for tokens, seconds in passes)
        for row in self._seconds if lengths else ():
            for j, length in enumerate(self._lengths):
                row[j] = max(row[j] * exp(_at(lengths, bends, length)), _LEAST_SECONDS)

    def measure(self, point: Point, seconds: float) -> None:
        """Set a point of the grid to what it took; where that corrects an estimate, the others move along."""
        i, j = self._rows.index(point[0]), self._lengths.index(point[1])
        seconds = max(seconds, _LEAST_SECONDS)
        if point in self._estimated:
            self._move_unseen(seconds / self._seconds[i][j])
        self._seconds[i][j] = seconds
        self._seen[i][j] = 1 / _LEARNING_RATE
        self._estimated.discard(point)

    def extend(self) -> None:
        """Estimate what is too long to be measured from what is not: call it once the rest is.

        There more rows are taken to cost as many times what fewer do as at that length: what batches gain
        shrinks with length, and an estimate that promises more makes batches that do not pay.
        """
        for i, rows in enumerate(self._rows[1:], start=1):
            known = [j for j, length in enumerate(self._lengths) if (rows, length) not in self._estimated]
            for j in range(known[-1] + 1 if known else len(self._lengths), len(self._lengths)):
                if not self._seen[i][j]:
                    relative = self._seconds[i][j - 1] / self._seconds[i - 1][j - 1]
                    self._seconds[i][j] = relative * self._seconds[i - 1][j]

    def observe(self, rows: int, length: int, seconds: float) -> None:
        """Move the points around (rows, length) towards what a pass really took."""
        surprise = min(seconds / self(rows, length), _LARGEST_SURPRISE) - 1
        row, down = _locate(self._rows, rows)
        column, right = _locate(self._lengths, length)
        for i, row_weight in _weights(row, down, len(self._rows)):
            for j, column_weight in _weights(column, right, len(self._lengths)):
                weight = row_weight * column_weight
                self._seen[i][j] += weight
                rate = max(_LEARNING_RATE, 1 / max(self._seen[i][j], 1.0))
                self._seconds[i][j] *= 1 + rate * weight * surprise

    def _move_unseen(self, ratio: float) -> None:
        for i, seen in enumerate(self._seen):
            for j, passes in enumerate(seen):
                if not passes:
                    self._seconds[i][j] = max(ratio * self._seconds[i][j], _LEAST_SECONDS)


def guess(rows: int, length: int) -> float:
    """The shape of a pass's cost where nothing is known of it, in no unit."""
    return float(rows * length + _GUESSED_FIXED_TOKENS)


def shape_of(table: Mapping[Point, float]) -> Callable[[int, int], float]:
    """A published table's shape: between and beyond its points it follows the guess; `guess` if it is empty.

    Published points need not form a grid; the guess is bent through them, by length, in the logarithm.
    """
    points = [(length, seconds / guess(rows, length)) for (rows, length), seconds in table.items()]
    lengths, bends = _bends(points)
    if not lengths:
        return guess
    return lambda rows, length: guess(rows, length) * exp(_at(lengths, bends, length))


def _bends(ratios: Iterable[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Logarithms of ratios by length; of lengths that hardly differ the least one, for noise only adds."""
    lengths: list[int] = []
    bends: list[float] = []
    for length, ratio in sorted(ratios):
        if lengths and length < _ALIKE * lengths[-1]:
            bends[-1] = min(bends[-1], log(ratio))
        else:
            lengths.append(length)
            bends.append(log(ratio))
    return lengths, bends


def _at(lengths: Sequence[int], bends: Sequence[float], length: int) -> float:
    """Between the lengths the bend is in between; beyond them it stays."""
    index, place = _locate(lengths, min(max(length, lengths[0]), lengths[-1]))
    return _between(bends, index, place)


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
