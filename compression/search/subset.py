"""A part of the data of a run, for trials that are to be cheap."""

from __future__ import annotations

import random
from dataclasses import replace

from compression import classifier
from compression.data import Dataset, Split
from compression.search.recipes import Effort
from compression.stages.base import Context
from compression.stages.reading import read_by


def of_effort(context: Context, effort: Effort, seed: int) -> Context:
    """The same context with the effort's rows: every data set gives the same share of them."""
    count = len(context.datasets)
    datasets = tuple(
        replace(
            dataset,
            train=_some(dataset.train, effort.rows // count if effort.rows else 0, seed),
            validation=_some(dataset.validation, -(-effort.judged_rows // count), seed),
        )
        for dataset in context.datasets
    )
    if datasets == context.datasets:
        return context
    teacher = classifier.load(str(context.teacher.folder))
    return read_by(teacher, replace(context, datasets=_without_unlabelled(datasets, effort)))


def _some(split: Split, rows: int, seed: int) -> Split:
    """A seeded sample in the order of the split; all of it for 0, or where there are no more."""
    if rows == 0 or rows >= len(split):
        return split
    return split.take(sorted(random.Random(seed).sample(range(len(split)), rows)))


def _without_unlabelled(datasets: tuple[Dataset, ...], effort: Effort) -> tuple[Dataset, ...]:
    """A cheap trial does not read unlabelled texts, so they are not tokenized for it either."""
    return tuple(replace(each, unlabelled=None) for each in datasets) if effort.rows else datasets
