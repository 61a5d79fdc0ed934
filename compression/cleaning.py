"""Texts made comparable, freed of duplicates and leaks, and divided without favour."""

from __future__ import annotations

import html
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class CleaningReport:
    """Rows left out, and why. A test text is never removed: the copy in training is.

    `in_other_data` counts rows of train and unlabelled that another data set of the run holds out.
    """

    train_duplicates: int
    conflicting_labels: int
    train_in_test: int
    test_duplicates: int
    unlabelled_duplicates: int
    unlabelled_in_test: int
    in_other_data: int = 0


def clean(text: str) -> str:
    """Line-break tags become spaces, entities characters, runs of white space one space."""
    return _SPACE.sub(" ", html.unescape(_BREAK.sub(" ", text))).strip()


def unrepeated(texts: Sequence[str], labels: Sequence[int] | None) -> tuple[list[int], int]:
    """Rows to keep, the first of equal texts, and how many texts go entirely: their copies disagree."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        rows_of[text].append(row)
    conflicting = {
        text
        for text, rows in rows_of.items()
        if labels is not None and len({labels[row] for row in rows}) > 1
    }
    kept = [rows[0] for text, rows in rows_of.items() if text not in conflicting]
    return sorted(kept), len(conflicting)


def unseen(texts: Sequence[str], others: Iterable[Sequence[str]]) -> list[int]:
    """Rows whose text stands in none of the others."""
    seen = {text for other in others for text in other}
    return [row for row, text in enumerate(texts) if text not in seen]


def stratified_split(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the larger and the smaller part; every class gives the same share.

    A class of several rows gives at least one; the only row of a class stays in the larger part, which
    could not learn it otherwise.
    """
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_label[label].append(index)
    generator = random.Random(seed)
    chosen: set[int] = set()
    for label in sorted(by_label):
        rows = by_label[label]
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        chosen.update(generator.sample(rows, count))
    return [index for index in range(len(labels)) if index not in chosen], sorted(chosen)
