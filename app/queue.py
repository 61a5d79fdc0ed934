"""One variant's waiting rows, by deadline and, where batches pay, by length."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from app.job import Row

_EMPTY: tuple[Row, ...] = ()


class Queue:
    """Not thread-safe: the scheduler's lock guards it."""

    def __init__(self, keep_lengths: bool) -> None:
        """`keep_lengths` is False for a build that never batches: no order to maintain."""
        self._keep_lengths = keep_lengths
        self._heap: list[tuple[float, int, Row]] = []
        self._by_length: list[Row] = []
        self._waiting = 0
        self._cost_seconds = 0.0

    def __len__(self) -> int:
        return self._waiting

    @property
    def cost_seconds(self) -> float:
        """Predicted seconds of everything that waits, each row on its own."""
        return self._cost_seconds if self._waiting else 0.0

    def push(self, row: Row) -> None:
        """Let a row wait."""
        row.waiting = True
        heapq.heappush(self._heap, (row.deadline, row.arrival, row))
        if self._keep_lengths:
            insort(self._by_length, row, key=_length_key)
        self._waiting += 1
        self._cost_seconds += row.cost_seconds

    def rows(self) -> list[Row]:
        """Everything that waits."""
        return [row for _, _, row in self._heap if row.waiting]

    def earliest(self) -> Row | None:
        """The waiting row whose deadline is nearest; of equals, the one that came first."""
        while self._heap and not self._heap[0][2].waiting:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def others(self, seed: Row) -> Sequence[Row]:
        """Rows waiting beside the seed, in order of length; empty where lengths are not kept."""
        if not self._keep_lengths:
            return _EMPTY
        at = self._position(seed)
        return self._by_length[:at] + self._by_length[at + 1 :]

    def remove(self, rows: Iterable[Row]) -> None:
        """Take rows out, to run or to forget; those that do not wait are passed over."""
        for row in rows:
            if not row.waiting:
                continue
            row.waiting = False
            if self._keep_lengths:
                del self._by_length[self._position(row)]
            self._waiting -= 1
            self._cost_seconds -= row.cost_seconds
        if len(self._heap) > 2 * self._waiting + 64:
            # Rows of requests that were given up must not stay in memory until their deadline comes.
            self._heap = [entry for entry in self._heap if entry[2].waiting]
            heapq.heapify(self._heap)

    def _position(self, row: Row) -> int:
        return bisect_left(self._by_length, _length_key(row), key=_length_key)


def _length_key(row: Row) -> tuple[int, int]:
    return row.length, row.arrival
