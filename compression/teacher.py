"""The teacher: the user's own classifier as it is, or a backbone fine-tuned here on true labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from app.errors import DataError
from compression.batches import Batch, Rows
from compression.evaluation import accuracy_interval, by_labels, true_label_loss
from compression.heads import heads_of
from compression.training import Objective, TrainingSettings

# So many validation rows tell whether a teacher's labels are the data's.
_CHECKED_ROWS = 200


class FinetuningSettings(TrainingSettings):
    """How a backbone learns the true labels.

    `label_smoothing` spreads so much of each label over all classes, so that the teacher is less sure of
    itself. Source: Szegedy et al. 2016, section 7.
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


def true_labels(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy with the true labels. Shape: (B,)."""
    return smoothed_labels(0.0)(model, batch)


def smoothed_labels(smoothing: float, weights: Sequence[float] = ()) -> Objective:
    """Cross-entropy with smoothed true labels, as an objective; `weights` are those of the heads."""

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        heads = heads_of(cast(PreTrainedModel, model).config)
        return true_label_loss(logits, batch, heads, smoothing, weights)

    return objective


def check_labels(model: PreTrainedModel, rows: Rows) -> None:
    """Hold a teacher that was trained elsewhere to a few labelled rows.

    Raises:
        DataError: it is right less often than chance would be: its labels stand in another order.
    """
    for part, corpus in zip(rows.parts(), rows.corpora, strict=True):
        chosen = [part.start + row for row in corpus.take(_CHECKED_ROWS)]
        with torch.inference_mode():
            found = by_labels(model, rows, chosen).accuracy or 0.0
        labels = heads_of(model.config)[0].labels
        if accuracy_interval(found, len(chosen))[1] < 1 / len(labels):
            raise DataError(
                f"the teacher is right about {found:.1%} of {len(chosen)} validation texts of {corpus.name}, "
                f"less than chance: do its labels, {', '.join(labels)}, stand in the order of the data's "
                "numbers? Names in the label column settle it"
            )
