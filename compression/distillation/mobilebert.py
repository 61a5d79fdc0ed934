"""MobileBERT's transfer of feature maps and attention, layer by layer from the first to the last.

While one layer learns, those below it stay as they are and those above it wait, so that what each is taught
starts from what the layers below it already do.
Source: Sun et al. 2020, MobileBERT, equations 1 and 2, and section 3.5 (progressive knowledge transfer).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from app.errors import CompressionError
from compression.architecture import encoder_layers, layer_shapes
from compression.batches import Batch, Rows
from compression.distillation.attention import over_tokens, row_divergence
from compression.distillation.trace import Trace, trace
from compression.evaluation import Scores
from compression.settings import Settings


class TransferWeights(Settings):
    """Weights of the two losses; 0 leaves one out."""

    feature_maps: float = Field(default=1.0, ge=0)
    attention: float = Field(default=1.0, ge=0)


def feature_map_loss(
    student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Mean square between the states of two layers over real tokens (equation 1).

    Shapes: states (B, T, H), attention_mask (B, T); loss (B,).
    """
    return over_tokens((student - teacher) ** 2, attention_mask)


def attention_transfer_loss(
    student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Divergence of the student's attention from the teacher's, over heads and real queries (equation 2).

    Shapes: scores before the softmax (B, A, T, T), attention_mask (B, T); loss (B,).
    """
    return row_divergence(student, teacher, attention_mask)


def layer_loss(
    weights: TransferWeights, layer: int, student: Trace, teacher: Trace, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Both losses of one layer, counted from 0. Shape: (B,)."""
    loss = weights.feature_maps * feature_map_loss(
        student.hidden[layer + 1], teacher.hidden[layer + 1], attention_mask
    )
    return loss + weights.attention * attention_transfer_loss(
        student.attention_scores(layer), teacher.attention_scores(layer), attention_mask
    )


class ProgressiveTransfer(nn.Module):
    """An objective that teaches one layer after the other; `rows` is how many rows it will see in all.

    Raises:
        CompressionError: student and teacher differ in layers, heads or width.
    """

    def __init__(
        self, weights: TransferWeights, student: PreTrainedModel, teacher: PreTrainedModel, rows: int
    ) -> None:
        super().__init__()
        _check_alike(student, teacher)
        self._weights, self._teacher, self._student = weights, (teacher,), (student,)
        self._rows, self._layers = max(1, rows), len(encoder_layers(student))
        self._learning = 0  # in the pass under way
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def layer(self) -> int:
        """The layer that learns now, counted from 0."""
        return min(self._layers - 1, int(self.get_buffer("seen")) * self._layers // self._rows)

    def forward(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        layer = self._learning = self.layer
        if model.training:
            self.get_buffer("seen").add_(len(batch.labels))
        ours = trace(cast(PreTrainedModel, model), batch, attention=True)
        with torch.no_grad():
            theirs = trace(self._teacher[0], batch, attention=True)
        return layer_loss(self._weights, layer, ours, theirs, batch.attention_mask)

    def judge(self, _: nn.Module, __: Rows, chosen: Sequence[int]) -> Scores:
        """Losses of different layers do not compare: the last weights count."""
        return Scores(accuracy=None, loss=1.0 - int(self.get_buffer("seen")) / self._rows, n=len(chosen))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """No gradient passes below the layer that learns."""
        handles = [
            layer.register_forward_pre_hook(self._barrier(number), with_kwargs=True)
            for number, layer in enumerate(encoder_layers(self._student[0]))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _barrier(self, number: int) -> Any:
        def hook(
            _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            # The first layer learns together with the embeddings.
            if number == 0 or number != self._learning:
                return positional, named
            if positional:
                return (positional[0].detach(), *positional[1:]), named
            return positional, {**named, "hidden_states": named["hidden_states"].detach()}

        return hook


def _check_alike(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    ours, theirs = ([shape.heads for shape in layer_shapes(model)] for model in (student, teacher))
    widths = int(student.config.hidden_size), int(teacher.config.hidden_size)
    if ours != theirs or widths[0] != widths[1]:
        raise CompressionError(
            f"layers are compared one by one, and the student has heads {ours} in states {widths[0]} wide, "
            f"its teacher {theirs} in states {widths[1]} wide; make it with a stage of kind 'bottleneck'"
        )
