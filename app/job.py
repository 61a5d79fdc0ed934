"""What waits for the engine: one request's texts, as rows that may run in different batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from app.tokenizer import Encoded, Ids

if TYPE_CHECKING:
    from app.variant import Variant

Logits = npt.NDArray[np.float32]
Priority = Literal["high", "normal", "low"]
_arrivals = itertools.count()


class Row:
    """One text's tokens, waiting for a forward pass."""

    __slots__ = (
        "arrival",
        "cost_seconds",
        "deadline",
        "index",
        "input_ids",
        "job",
        "length",
        "start",
        "turn",
        "waiting",
    )

    def __init__(self, job: Job, index: int, input_ids: Ids, deadline: float, cost_seconds: float) -> None:
        self.job, self.index, self.input_ids = job, index, input_ids
        self.length, self.deadline = len(input_ids), deadline
        self.arrival = next(_arrivals)
        self.cost_seconds = cost_seconds
        # The dispatcher sets both when the row begins to wait.
        self.start = self.turn = 0.0
        self.waiting = False


class Job:
    """One request's rows on one variant. `on_done` is called once, when all are answered or one failed.

    Everything but `on_done` happens under the scheduler's lock.
    """

    def __init__(
        self,
        variant: Variant,
        encoded: Sequence[Encoded],
        deadline: float,
        on_done: Callable[[Job], None],
        priority: Priority = "normal",
        client: str = "",
    ) -> None:
        self.variant, self.priority, self.client = variant, priority, client
        self.rows = [
            Row(self, index, item.input_ids, deadline, variant.cost(1, len(item.input_ids)))
            for index, item in enumerate(encoded)
        ]
        self.cost_seconds = self.unanswered_seconds = sum(row.cost_seconds for row in self.rows)
        self.logits: list[Logits | None] = [None] * len(self.rows)
        self.error: Exception | None = None
        self.submitted = 0.0
        # until its last row starts; by the costs alone
        self.predicted_seconds = 0.0
        self.queue_seconds = 0.0
        self.inference_seconds = 0.0
        self.batch_rows = 0
        self.on_done = on_done
        self.finished = False
        self._unanswered = len(self.rows)

    @property
    def low(self) -> bool:
        """Whether it waits in the lane of what may wait."""
        return self.priority == "low"

    @property
    def flow(self) -> Hashable:
        """Whose account it is on: the client's, or its own where nobody is named."""
        return self.client or self

    def own_seconds(self, cores: int) -> float:
        """Predicted time from start to answer with all cores free: rows share them, one row does not."""
        longest = max(row.cost_seconds for row in self.rows)
        return max(longest, self.cost_seconds * self.variant.session.threads / cores)

    @property
    def answers(self) -> list[Logits]:
        """Logits of every row, in order; the job is finished without error."""
        return [logits for logits in self.logits if logits is not None]

    def answer(
        self, row: Row, logits: Logits, queue_seconds: float, inference_seconds: float, batch_rows: int = 1
    ) -> bool:
        """Record one row's logits; True if that was the last one missing."""
        if self.finished:
            return False
        self.logits[row.index] = logits
        self.queue_seconds = max(self.queue_seconds, queue_seconds)
        self.inference_seconds = max(self.inference_seconds, inference_seconds)
        self.batch_rows = max(self.batch_rows, batch_rows)
        self.unanswered_seconds -= row.cost_seconds
        self._unanswered -= 1
        self.finished = self._unanswered == 0
        return self.finished

    def fail(self, error: Exception) -> bool:
        """Give the whole job up; True if it was not over before."""
        if self.finished:
            return False
        self.error, self.finished = error, True
        return True
