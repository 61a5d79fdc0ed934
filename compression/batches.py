"""Steps and micro-batches: what a training step sees, and in which pieces it is computed.

A step is a fixed number of rows, so the optimisation does not depend on the machine. A micro-batch is as
many of a step's rows as a budget of padded tokens allows, so memory does not depend on the rows. Rows of
like length share a step, which keeps padding small; which rows those are changes every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from app.tokenizer import pad
from compression.corpus import Corpus

# Steps drawn together and sorted by length: large enough for little padding, small enough to stay random.
_POOL_STEPS = 64


@dataclass(frozen=True)
class Batch:
    """Rows as the model takes them; a label of -1 means there is none.

    Shapes: input_ids, attention_mask (B, T); labels, rows (B,); further (B, K), the labels of further
    heads. `rows` are numbers in the training set.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    further: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(**{name: part.to(device) for name, part in vars(self).items()})


class Rows:
    """One or more corpora read as one: first all rows of the first, then of the next."""

    def __init__(self, *corpora: Corpus) -> None:
        self.corpora = corpora
        self._starts = np.cumsum([0, *(len(corpus) for corpus in corpora)])
        self.lengths = np.concatenate([corpus.lengths for corpus in corpora])
        self.labels = np.concatenate(
            [np.full(len(c), -1, dtype=np.int64) if c.labels is None else c.labels for c in corpora]
        )
        self.further = np.concatenate([corpus.further for corpus in corpora])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def labels_of(self, head: int) -> npt.NDArray[np.int64]:
        """True labels of one head, -1 where a row has none. Shape: (N,)."""
        if head == 0:
            return self.labels
        if self.further.shape[-1] < head:
            return np.full_like(self.labels, -1)
        return self.further[:, head - 1]

    @property
    def fingerprint(self) -> str:
        """Identity of the rows in their order."""
        return " ".join(corpus.fingerprint for corpus in self.corpora)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Read, cut and pad the given rows."""
        ids = [self.row(row) for row in rows]
        input_ids, attention_mask = pad(ids, self.pad_token_id)
        return Batch(
            torch.from_numpy(input_ids),
            torch.from_numpy(attention_mask),
            torch.from_numpy(self.labels[list(rows)]),
            torch.tensor(list(rows)),
            torch.from_numpy(self.further[list(rows)]),
        )

    def take(self, count: int, seed: int = 0) -> list[int]:
        """Row numbers of a seeded sample, ascending; each corpus gives the same share, or all it has."""
        chosen: list[int] = []
        by_size = sorted(range(len(self.corpora)), key=lambda index: len(self.corpora[index]))
        for position, index in enumerate(by_size):
            share = (count - len(chosen)) // (len(by_size) - position)
            start = int(self._starts[index])
            chosen += [start + row for row in self.corpora[index].take(share, seed)]
        return sorted(chosen)

    def parts(self) -> list[range]:
        """Row numbers of each corpus."""
        return [range(int(start), int(stop)) for start, stop in pairwise(self._starts)]

    @property
    def columns(self) -> dict[str, list[str]]:
        """What else is known of the rows by name, nothing where a corpus does not have it."""
        names = dict.fromkeys(name for corpus in self.corpora for name in corpus.columns)
        return {
            name: [
                value for corpus in self.corpora for value in corpus.columns.get(name, ("",) * len(corpus))
            ]
            for name in names
        }

    @property
    def texts(self) -> list[str]:
        """What the rows were tokenized from."""
        return [text for corpus in self.corpora for text in corpus.texts]

    @property
    def pad_token_id(self) -> int:
        """Id that fills up shorter rows."""
        return self.corpora[0].settings.pad_token_id

    def row(self, row: int) -> npt.NDArray[np.int64]:
        """Ids of one row as the model reads them. Shape: (T,)."""
        which = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.corpora[which].row(row - int(self._starts[which]))


def plan_epoch(
    lengths: npt.NDArray[np.int64], rows_per_step: int, seed: int, epoch: int, bucketing: bool = True
) -> list[list[int]]:
    """Every row once, in steps of rows of like length, steps in random order; without `bucketing` of any
    length.

    The plan depends on nothing but the arguments, so a resumed run sees the same one.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    pool = rows_per_step * (_POOL_STEPS if bucketing else 1)
    steps: list[list[int]] = []
    for start in range(0, len(order), pool):
        drawn = order[start : start + pool]
        by_length = drawn[np.argsort(lengths[drawn], kind="stable")]
        steps += [by_length[i : i + rows_per_step].tolist() for i in range(0, len(by_length), rows_per_step)]
    return [steps[index] for index in generator.permutation(len(steps))]


def by_token_budget(rows: Sequence[int], lengths: npt.NDArray[np.int64], budget: int) -> list[list[int]]:
    """Cut rows into groups whose padded size, rows x longest, stays within the budget.

    A single row longer than the budget is a group of its own.
    """
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: -int(lengths[row])):
        # The first of a group is its longest: rows come longest first.
        if groups and (len(groups[-1]) + 1) * int(lengths[groups[-1][0]]) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
