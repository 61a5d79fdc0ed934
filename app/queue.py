"""One variant's waiting rows: by turn, by deadline and, where batches pay, by length.

Rows of priority low wait in a lane of their own, which the dispatcher serves by another rule.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Sequence

from app.job import Row

_EMPTY: tuple[Row, ...] = ()
# How finely the work before a turn is known; a tenth of a second of deadline.
_BUCKET_SECONDS = 0.1


class Lane:
    """Rows that are served in order of their turns. Not thread-safe: the scheduler's lock guards it."""

    def __init__(self, keep_lengths: bool) -> None:
        """`keep_lengths` is False for a build that never batches: no order to maintain."""
        self._keep_lengths = keep_lengths
        self._by_turn: list[tuple[float, int, Row]] = []
        self._by_deadline: list[tuple[float, int, Row]] = []
        self._by_length: list[Row] = []
        self._work = _WorkByTurn()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    @property
    def cost_seconds(self) -> float:
        """Predicted seconds of everything that waits, each row on its own."""
        return self._work.total

    def cost_before(self, turn: float) -> float:
        """Predicted seconds of what waits and is served before this turn, or at about the same time."""
        return self._work.before(turn)

    def push(self, row: Row) -> None:
        """Let a row wait."""
        row.waiting = True
        heapq.heappush(self._by_turn, (row.turn, row.arrival, row))
        heapq.heappush(self._by_deadline, (row.deadline, row.arrival, row))
        if self._keep_lengths:
            insort(self._by_length, row, key=_length_key)
        self._work.add(row)
        self._waiting += 1

    def rows(self) -> list[Row]:
        """Everything that waits."""
        return [row for _, _, row in self._by_turn if row.waiting]

    def first(self) -> Row | None:
        """The waiting row whose turn comes first; of equals, the one that came first."""
        return _first_waiting(self._by_turn)

    def earliest(self) -> Row | None:
        """The waiting row whose deadline is nearest."""
        return _first_waiting(self._by_deadline)

    def others(self, seed: Row) -> Sequence[Row]:
        """Rows waiting beside the seed, in order of length; empty where lengths are not kept."""
        if not self._keep_lengths:
            return _EMPTY
        at = self._position(seed)
        return self._by_length[:at] + self._by_length[at + 1 :]

    def remove(self, row: Row) -> None:
        """Take a waiting row out, to run or to forget."""
        row.waiting = False
        if self._keep_lengths:
            del self._by_length[self._position(row)]
        self._work.drop(row)
        self._waiting -= 1
        # Rows of requests that were given up must not stay in memory until their time comes.
        self._by_turn = _without_gone(self._by_turn, self._waiting)
        self._by_deadline = _without_gone(self._by_deadline, self._waiting)

    def _position(self, row: Row) -> int:
        return bisect_left(self._by_length, _length_key(row), key=_length_key)


class Queue:
    """The lane of the ordinary rows and the lane of the low ones."""

    def __init__(self, keep_lengths: bool) -> None:
        """`keep_lengths` is False for a build that never batches."""
        self.ordinary, self.low = Lane(keep_lengths), Lane(keep_lengths)

    def __len__(self) -> int:
        return len(self.ordinary) + len(self.low)

    def lane(self, *, low: bool) -> Lane:
        """One of the two."""
        return self.low if low else self.ordinary

    def rows(self) -> list[Row]:
        """Everything that waits."""
        return self.ordinary.rows() + self.low.rows()


class _WorkByTurn:
    """Predicted seconds of what waits, summed in buckets of turns."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[float]] = {}

    @property
    def total(self) -> float:
        return sum(seconds for _, seconds in self._buckets.values())

    def before(self, turn: float) -> float:
        bucket = _bucket(turn)
        return sum(seconds for other, (_, seconds) in self._buckets.items() if other <= bucket)

    def add(self, row: Row) -> None:
        sums = self._buckets.setdefault(_bucket(row.turn), [0, 0.0])
        sums[0] += 1
        sums[1] += row.cost_seconds

    def drop(self, row: Row) -> None:
        sums = self._buckets[_bucket(row.turn)]
        sums[0] -= 1
        sums[1] -= row.cost_seconds
        if not sums[0]:  # what rounding left goes with the bucket
            del self._buckets[_bucket(row.turn)]


def _bucket(turn: float) -> int:
    return math.floor(turn / _BUCKET_SECONDS)


def _first_waiting(heap: list[tuple[float, int, Row]]) -> Row | None:
    while heap and not heap[0][2].waiting:
        heapq.heappop(heap)
    return heap[0][2] if heap else None


def _without_gone(heap: list[tuple[float, int, Row]], waiting: int) -> list[tuple[float, int, Row]]:
    if len(heap) <= 2 * waiting + 64:
        return heap
    kept = [entry for entry in heap if entry[2].waiting]
    heapq.heapify(kept)
    return kept


def _length_key(row: Row) -> tuple[int, int]:
    return row.length, row.arrival
