"""The weighted sum a student is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import Field, model_validator
from torch import nn
from transformers import PreTrainedModel

from app.errors import CompressionError
from compression.architecture import layer_shapes
from compression.batches import Batch, Rows
from compression.distillation.hidden_states import HiddenStateLoss, layer_map
from compression.distillation.minilm import MiniLmLoss, MiniLmSettings
from compression.distillation.soft_labels import soft_label_loss
from compression.distillation.tinybert import TinyBertLoss, TinyBertSettings
from compression.distillation.trace import Trace, trace
from compression.evaluation import Scores, batches, mean_over_heads, true_label_loss
from compression.heads import heads_of, slices
from compression.settings import Settings


class DistillationSettings(Settings):
    """What a student learns from: soft labels, true labels, and what its teacher computes on the way.

    `unlabelled_rows` texts without labels are added to the training rows (0: none, -1: all there are). With
    several teachers the soft labels are the mean of their probabilities, weighed by `teacher_weights`
    (none: each the same); the first of them is the one that is compared layer by layer.

    `hidden_weight` is DistilBERT's cosine of hidden states; `tinybert` and `minilm` are the losses of those
    papers. `layer_map` names the teacher's layer (from 1) for each of the student's; unset: spread evenly.

    With both `soft_weight` and `hard_weight` 0 nothing teaches the classifier: this is the first of two
    phases, and the weights kept are those of the smallest loss on validation, not of the best accuracy.
    """

    temperature: float = Field(default=2.0, gt=0)
    soft_weight: float = Field(default=1.0, ge=0)
    hard_weight: float = Field(default=0.3, ge=0)
    hidden_weight: float = Field(default=0.0, ge=0)
    unlabelled_rows: int = Field(default=0, ge=-1)
    teacher_weights: tuple[float, ...] = ()
    layer_map: tuple[int, ...] | None = None
    tinybert: TinyBertSettings | None = None
    minilm: MiniLmSettings | None = None

    @property
    def compares_tokens(self) -> bool:
        """Whether student and teacher must see a text as the same tokens."""
        return self.hidden_weight > 0 or self.tinybert is not None or self.minilm is not None

    @property
    def teaches_labels(self) -> bool:
        """Whether the classifier itself learns."""
        return self.soft_weight > 0 or self.hard_weight > 0

    @model_validator(mode="after")
    def _teaches_something(self) -> DistillationSettings:
        if not self.teaches_labels and not self.compares_tokens:
            raise ValueError("every weight is 0: the student would learn nothing")
        if any(weight < 0 for weight in self.teacher_weights) or (
            self.teacher_weights and not sum(self.teacher_weights)
        ):
            raise ValueError(f"teacher_weights must be 0 or more, and not all 0, got {self.teacher_weights}")
        return self


class DistillationObjective(nn.Module):
    """Soft labels from logits computed once, true labels where there are any, layers as they come.

    `teacher_logits` has one row for each training row; `teacher` itself is run only for its layers. What is
    compared there may have projections, which learn with the student.
    """

    def __init__(
        self,
        settings: DistillationSettings,
        teacher_logits: torch.Tensor | None,
        teacher: PreTrainedModel | None,
        student: PreTrainedModel,
        head_weights: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if settings.compares_tokens and teacher is None:
            raise CompressionError("comparing layers needs the teacher itself, not only its logits")
        if settings.soft_weight > 0 and teacher_logits is None:
            raise CompressionError("soft_weight above 0 needs the teacher's logits")
        self.settings, self.teacher_logits = settings, teacher_logits
        self.heads, self.head_weights = heads_of(student.config), tuple(head_weights)
        self.losses = nn.ModuleList()
        if settings.compares_tokens and teacher is not None:
            self.losses.extend(_layer_losses(settings, student, teacher))
        # In a tuple it is no part of this module: the teacher neither learns nor is saved.
        self._teacher = (teacher,)

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The model that is run beside the student, if there is need to."""
        return self._teacher[0] if len(self.losses) else None

    def forward(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        settings = self.settings
        if self.teacher is None:
            output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            return self._of_labels(output.logits.float(), batch)
        attention = any(loss.needs_attention for loss in self.losses)
        ours = trace(cast(PreTrainedModel, model), batch, attention=attention)
        with torch.no_grad():
            theirs = trace(self.teacher, batch, attention=attention)
        loss = self._of_layers(ours, theirs, batch.attention_mask)
        return loss + self._of_labels(ours.logits, batch) if settings.teaches_labels else loss

    def judge(self, model: nn.Module, rows: Rows, chosen: Sequence[int]) -> Scores:
        """The mean loss of the layers alone, for a phase in which no labels are taught."""
        device, total = next(model.parameters()).device, 0.0
        for batch in batches(rows, chosen):
            total += float(self(model, batch.to(device)).detach().sum())
        return Scores(accuracy=None, loss=total / len(chosen), n=len(chosen))

    def _of_layers(self, ours: Trace, theirs: Trace, attention_mask: torch.Tensor) -> torch.Tensor:
        return torch.stack([loss(ours, theirs, attention_mask) for loss in self.losses]).sum(0)

    def _of_labels(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        settings = self.settings
        loss = logits.new_zeros(len(logits))
        if settings.soft_weight > 0 and self.teacher_logits is not None:
            taught = self.teacher_logits[batch.rows.cpu()].to(logits.device)
            soft = [
                soft_label_loss(logits[:, part], taught[:, part], settings.temperature)
                for part in slices(self.heads)
            ]
            loss = loss + settings.soft_weight * mean_over_heads(soft, self.head_weights)
        if settings.hard_weight > 0:
            hard = true_label_loss(logits, batch, self.heads, weights=self.head_weights)
            loss = loss + settings.hard_weight * hard
        return loss


def _layer_losses(
    settings: DistillationSettings, student: PreTrainedModel, teacher: PreTrainedModel
) -> list[nn.Module]:
    counts = len(layer_shapes(student)), len(layer_shapes(teacher))
    layers = settings.layer_map or layer_map(*counts)
    if len(layers) != counts[0] or not all(1 <= layer <= counts[1] for layer in layers):
        raise CompressionError(
            f"layer_map {list(layers)} does not name a layer, 1 to {counts[1]}, for each of the student's "
            f"{counts[0]}"
        )
    losses: list[nn.Module] = []
    if settings.hidden_weight:
        losses.append(HiddenStateLoss(settings.hidden_weight, student, teacher, layers))
    if settings.tinybert is not None:
        losses.append(TinyBertLoss(settings.tinybert, student, teacher, layers))
    if settings.minilm is not None:
        losses.append(MiniLmLoss(settings.minilm, student, teacher))
    return losses
