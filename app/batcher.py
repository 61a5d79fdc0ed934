"""Which waiting rows share the next forward pass. Pure: no clock, no lock, no thread.

It starts from the row whose turn it is, and takes in neighbours of similar length only while each adds less
to the predicted cost of the padded batch than its share of a small batch of its own length: a row that costs
more is left for those that come. For some builds every row is a batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, Literal, Protocol, TypeVar

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

# Batches of its own length that a row which is left may come to share. Measured over HTTP with 16 short texts
# under way: up to 4 serves a sixth more than 1, and more than up to 2.
_COMPANY = (1, 2, 4)


Reason = Literal[
    "took_all",  # nothing else was waiting
    "not_invariant",  # the build runs one unpadded row at a time
    "full_rows",
    "full_tokens",  # or the memory that attention over them takes
    "does_not_pay",  # the next row costs less in a batch of its own length
    "deadline",  # the next row would make somebody late
    "idle_workers",  # the rest is left to workers that have nothing to do
]
"""Why a batch was cut where it was."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What bounds a batch. A build that is not batch-invariant runs one unpadded row at a time.

    `max_pairs` bounds rows times the square of their padded length: the pairs of tokens that attention
    weighs, which is what a pass takes memory for.
    """

    max_rows: int
    max_tokens: int
    batch_invariant: bool
    max_pairs: float = inf

    def hold(self, rows: int, longest: int) -> bool:
        """Whether so many rows, padded to the longest, are no more than a pass may have."""
        return rows * longest <= self.max_tokens and rows * longest**2 <= self.max_pairs


@dataclass(frozen=True, slots=True)
class Batch(Generic[W]):
    """Rows that share a pass, the most urgent first, and why there are not more."""

    rows: list[W]
    reason: Reason


def next_batch(
    seed: W, others: Sequence[W], cost: Cost, limits: BatchLimits, now: float, idle_workers: int = 1
) -> Batch[W]:
    """Rows of the next pass.

    `others` holds the rows that wait beside the seed, in order of length. Rows that idle workers could run
    at once are left to them.
    """
    if not limits.batch_invariant:
        return Batch([seed], "not_invariant")
    fair_share = -(-(len(others) + 1) // max(idle_workers, 1))
    sizes = [rows for rows in _COMPANY if rows <= min(len(others) + 1, limits.max_rows)]
    draft = _Draft([seed], seed.length, cost(1, seed.length), seed.deadline, sizes)
    shorter = bisect_left(others, seed.length, key=lambda row: row.length) - 1
    longer = shorter + 1
    reason: Reason = "took_all"
    while shorter >= 0 or longer < len(others):
        if len(draft.rows) >= limits.max_rows:
            return Batch(draft.rows, "full_rows")
        if len(draft.rows) >= fair_share:
            return Batch(draft.rows, "idle_workers")
        take_shorter = shorter >= 0 and (
            longer >= len(others)
            or seed.length - others[shorter].length < others[longer].length - seed.length
        )
        refusal = draft.admit(others[shorter if take_shorter else longer], cost, limits, now)
        # What does not pay at one length does not pay further out either: that side is done.
        if take_shorter:
            shorter = -1 if refusal else shorter - 1
        else:
            longer = len(others) if refusal else longer + 1
        reason = refusal or reason
    return Batch(draft.rows, reason)


@dataclass(slots=True)
class _Draft(Generic[W]):
    """A batch being put together; `sizes` are those that other batches may come to."""

    rows: list[W]
    longest: int
    seconds: float
    deadline: float
    sizes: Sequence[int]

    def admit(self, row: W, cost: Cost, limits: BatchLimits, now: float) -> Reason | None:
        """Take the row in if that fits, pays, and makes nobody late who would not be late anyway.

        Returns why it was not taken, or None.
        """
        rows, longest = len(self.rows) + 1, max(self.longest, row.length)
        if not limits.hold(rows, longest):
            return "full_tokens"
        seconds = cost(rows, longest)
        if seconds >= self.seconds + min(cost(size, row.length) / size for size in self.sizes):
            return "does_not_pay"
        deadline = min(self.deadline, row.deadline)
        if now + seconds > deadline >= now + self.seconds:
            return "deadline"
        self.rows.append(row)
        self.longest, self.seconds, self.deadline = longest, seconds, deadline
        return None
