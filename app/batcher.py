"""Which waiting rows share the next forward pass. Pure: no clock, no lock, no thread.

It starts from the row whose deadline is nearest, and takes in neighbours of similar length only while the
padded batch is predicted to cost less than running them apart. For some builds that is never.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Cost = Callable[[int, int], float]
"""Seconds of a pass over (rows, padded length)."""


class Waiting(Protocol):
    """What the batcher needs to know of a row."""

    @property
    def length(self) -> int:
        """Tokens, special ones included."""
        ...

    @property
    def deadline(self) -> float:
        """Monotonic seconds."""
        ...


W = TypeVar("W", bound=Waiting)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What bounds a batch. A build that is not batch-invariant runs one unpadded row at a time."""

    max_rows: int
    max_tokens: int
    batch_invariant: bool


def next_batch(
    seed: W, others: Sequence[W], cost: Cost, limits: BatchLimits, now: float, idle_workers: int = 1
) -> list[W]:
    """Rows of the next pass, the seed first.

    `others` holds the rows that wait beside the seed, in order of length. Rows that idle workers could run
    at once are left to them.
    """
    if not limits.batch_invariant:
        return [seed]
    fair_share = -(-(len(others) + 1) // max(idle_workers, 1))
    draft = _Draft([seed], seed.length, cost(1, seed.length), seed.deadline)
    shorter = bisect_left(others, seed.length, key=lambda row: row.length) - 1
    longer = shorter + 1
    while len(draft.rows) < min(limits.max_rows, fair_share):
        take_shorter = shorter >= 0 and (
            longer >= len(others)
            or seed.length - others[shorter].length < others[longer].length - seed.length
        )
        if not take_shorter and longer >= len(others):
            break
        candidate = others[shorter if take_shorter else longer]
        # What does not pay at one length does not pay further out either: that side is done.
        admitted = draft.admit(candidate, cost, limits, now)
        if take_shorter:
            shorter = shorter - 1 if admitted else -1
        else:
            longer = longer + 1 if admitted else len(others)
    return draft.rows


@dataclass(slots=True)
class _Draft(Generic[W]):
    """A batch being put together."""

    rows: list[W]
    longest: int
    seconds: float
    deadline: float

    def admit(self, row: W, cost: Cost, limits: BatchLimits, now: float) -> bool:
        """Take the row in if that fits, pays, and makes nobody late who would not be late anyway."""
        rows, longest = len(self.rows) + 1, max(self.longest, row.length)
        if rows * longest > limits.max_tokens:
            return False
        seconds = cost(rows, longest)
        if seconds >= self.seconds + cost(1, row.length):
            return False
        deadline = min(self.deadline, row.deadline)
        if now + seconds > deadline >= now + self.seconds:
            return False
        self.rows.append(row)
        self.longest, self.seconds, self.deadline = longest, seconds, deadline
        return True
