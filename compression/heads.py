"""One encoder, several heads: their logits stand side by side, and each head has its own part of them.

A model with several heads is a plain classifier with as many logits as all heads have labels together, so
every format and runtime takes it as it is; which part is whose stands in `config.json` under
`bertpress_heads`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from transformers import PretrainedConfig

from app.artifact import Head
from compression.batches import Batch
from compression.data import MAIN_HEAD

HEADS_KEY = "bertpress_heads"


def heads_of(config: PretrainedConfig) -> tuple[Head, ...]:
    """The heads of a model; a classifier as Hugging Face knows it has one."""
    described = getattr(config, HEADS_KEY, None)
    if described:
        return tuple(Head(name=name, labels=tuple(labels)) for name, labels in described)
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    return (Head(name=MAIN_HEAD, labels=tuple(names[index] for index in sorted(names))),)


def describe(config: PretrainedConfig, heads: Sequence[Head]) -> None:
    """Write heads into a configuration. Labels of further heads carry their head's name before them."""
    names = [
        label if number == 0 else f"{head.name}:{label}"
        for number, head in enumerate(heads)
        for label in head.labels
    ]
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    if len(heads) > 1:
        setattr(config, HEADS_KEY, [[head.name, list(head.labels)] for head in heads])


def slices(heads: Sequence[Head]) -> list[slice]:
    """Which logits belong to each head."""
    ends = accumulate((len(head.labels) for head in heads), initial=0)
    return [slice(start, stop) for start, stop in pairwise(ends)]


def weights_of(heads: Sequence[Head], weights: Mapping[str, float]) -> tuple[float, ...]:
    """The weight of each head in a loss, 1 where none is given; nothing where none is given at all."""
    return tuple(weights.get(head.name, 1.0) for head in heads) if weights else ()


def labels_of(batch: Batch, head: int) -> torch.Tensor:
    """True labels of one head, -1 where a row has none. Shape: (B,)."""
    if head == 0:
        return batch.labels
    if batch.further.shape[-1] < head:
        return torch.full_like(batch.labels, -1)
    return batch.further[:, head - 1]
