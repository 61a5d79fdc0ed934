"""The weighted sum a student is trained on."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from app.errors import CompressionError
from compression.batches import Batch
from compression.distillation.hidden_states import hidden_state_loss, layer_map
from compression.distillation.soft_labels import soft_label_loss
from compression.settings import Settings


class DistillationSettings(Settings):
    """What a student learns from: the teacher's soft labels, its hidden states, and the true labels.

    `unlabelled_rows` texts without labels are added to the training rows (0: none, -1: all there are).
    """

    temperature: float = Field(default=2.0, gt=0)
    soft_weight: float = Field(default=1.0, ge=0)
    hard_weight: float = Field(default=0.3, ge=0)
    hidden_weight: float = Field(default=0.0, ge=0)
    unlabelled_rows: int = Field(default=0, ge=-1)

    @property
    def compares_tokens(self) -> bool:
        """Whether student and teacher must see a text as the same tokens."""
        return self.hidden_weight > 0


class DistillationObjective:
    """Soft labels from logits computed once, true labels where there are any, hidden states as they come.

    `teacher_logits` has one row for each training row; `teacher` itself is run only for its hidden states.
    """

    def __init__(
        self,
        settings: DistillationSettings,
        teacher_logits: torch.Tensor,
        teacher: nn.Module | None,
        layers: tuple[int, int],
    ) -> None:
        if settings.hidden_weight > 0 and teacher is None:
            raise CompressionError("hidden_weight above 0 needs the teacher itself, not only its logits")
        self.settings = settings
        self.teacher_logits = teacher_logits
        self.teacher = teacher if settings.hidden_weight > 0 else None
        self.layers = layer_map(*layers)

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        settings = self.settings
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            output_hidden_states=self.teacher is not None,
        )
        logits = output.logits.float()
        teacher_logits = self.teacher_logits[batch.rows.cpu()].to(logits.device)
        loss = settings.soft_weight * soft_label_loss(logits, teacher_logits, settings.temperature)
        if settings.hard_weight > 0:
            # Rows without a label have -1, which cross_entropy is told to give no loss.
            true = functional.cross_entropy(logits, batch.labels, reduction="none", ignore_index=-1)
            loss = loss + settings.hard_weight * true
        if self.teacher is not None:
            loss = loss + settings.hidden_weight * self._hidden(output.hidden_states, batch)
        return loss

    def _hidden(self, student_states: tuple[torch.Tensor, ...], batch: Batch) -> torch.Tensor:
        assert self.teacher is not None  # noqa: S101 - the caller checked
        with torch.no_grad():
            output = self.teacher(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
            )
        return hidden_state_loss(student_states, output.hidden_states, self.layers, batch.attention_mask)
