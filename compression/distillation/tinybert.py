"""Embeddings, hidden states through a learned projection, and attention maps.

Source: Jiao et al. 2020, TinyBERT, equations 7 to 9. The attention maps compared are the scores before the
softmax, as there. The paper distils twice, on a large corpus before fine-tuning and on the task's own texts
after it; only the second is done here, in its two phases: these losses first, soft labels after.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from app.errors import CompressionError
from compression.architecture import layer_shapes
from compression.distillation.attention import over_tokens
from compression.distillation.trace import Trace
from compression.settings import Settings


class TinyBertSettings(Settings):
    """Weights of TinyBERT's three losses; a weight of 0 leaves a loss out."""

    embeddings: float = Field(default=1.0, ge=0)
    hidden: float = Field(default=1.0, ge=0)
    attention: float = Field(default=1.0, ge=0)


def state_loss(
    student: torch.Tensor, teacher: torch.Tensor, projection: nn.Module, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Mean square between the projected states and the teacher's, over real tokens (equations 8 and 9).

    Shapes: student (B, T, d), teacher (B, T, D), projection from d to D; loss (B,).
    """
    return over_tokens((projection(student) - teacher) ** 2, attention_mask)


def attention_loss(
    student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Mean square between attention scores over heads and pairs of real tokens (equation 7).

    Shapes: scores (B, H, T, T); loss (B,).
    """
    mask = attention_mask.to(student.dtype)
    pairs = mask[:, :, None] * mask[:, None, :]
    squares = ((student - teacher) ** 2).mean(1)
    return (squares * pairs).sum((-1, -2)) / pairs.sum((-1, -2))


class TinyBertLoss(nn.Module):
    """The three losses over mapped layers; its projections learn with the student."""

    def __init__(
        self,
        settings: TinyBertSettings,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        layers: Sequence[int],
    ) -> None:
        super().__init__()
        self.settings, self.layers = settings, tuple(layers)
        widths = int(student.config.hidden_size), int(teacher.config.hidden_size)
        self.embeddings, self.hidden = _projection(*widths), _projection(*widths)
        if settings.attention:
            _check_heads(student, teacher, self.layers)

    @property
    def needs_attention(self) -> bool:
        """Whether queries and keys must be traced."""
        return self.settings.attention > 0

    def forward(self, student: Trace, teacher: Trace, attention_mask: torch.Tensor) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        weights = self.settings
        loss = weights.embeddings * state_loss(
            student.hidden[0], teacher.hidden[0], self.embeddings, attention_mask
        )
        for index, layer in enumerate(self.layers):
            if weights.hidden:
                loss = loss + weights.hidden * state_loss(
                    student.hidden[index + 1], teacher.hidden[layer], self.hidden, attention_mask
                )
            if weights.attention:
                loss = loss + weights.attention * attention_loss(
                    student.attention_scores(index), teacher.attention_scores(layer - 1), attention_mask
                )
        return loss


def _projection(width: int, target: int) -> nn.Linear:
    """Without bias, the identity where widths are equal; random numbers of its own, so runs repeat."""
    projection = nn.Linear(width, target, bias=False)
    with torch.no_grad():
        if width == target:
            projection.weight.copy_(torch.eye(width))
        else:
            generator = torch.Generator().manual_seed(0)
            projection.weight.copy_(torch.randn(target, width, generator=generator) * width**-0.5)
    return projection


def _check_heads(student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int]) -> None:
    ours, theirs = layer_shapes(student), layer_shapes(teacher)
    for index, layer in enumerate(layers):
        if ours[index].heads != theirs[layer - 1].heads:
            raise CompressionError(
                f"attention maps are compared head by head: layer {index + 1} of the student has "
                f"{ours[index].heads} heads, layer {layer} of the teacher {theirs[layer - 1].heads}; give "
                "the student as many, or set the weight of this loss to 0"
            )
