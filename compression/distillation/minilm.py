"""Relations between tokens: how queries, keys and values of one layer look at each other.

Source: Wang et al. 2021, MiniLMv2: Multi-Head Self-Attention Relation Distillation, equations 4 to 7. Heads
are joined and cut anew into as many relation heads as wished, so student and teacher may differ in heads
and in width.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from app.errors import CompressionError
from compression.architecture import head_size, layer_shapes
from compression.distillation.attention import row_divergence
from compression.distillation.trace import Trace
from compression.settings import Settings


class MiniLmSettings(Settings):
    """MiniLMv2's loss: its weight, how many relation heads, and the teacher's layer (from 1; 0: the last).

    The paper takes the last layer of a base model, and one of the upper middle of a large one.
    """

    weight: float = Field(default=1.0, gt=0)
    heads: int = Field(default=12, ge=1)
    layer: int = Field(default=0, ge=0)


def relations(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Scaled dot products of every token's vector with every other's, in each relation head (equation 4).

    Shapes: states (B, H, T, d) to (B, heads, T, T); H times d is a multiple of `heads`.
    """
    rows, _, tokens, _ = states.shape
    joined = states.transpose(1, 2).reshape(rows, tokens, heads, -1).transpose(1, 2)
    return torch.matmul(joined, joined.transpose(-1, -2)) / math.sqrt(joined.shape[-1])


def relation_loss(
    student: torch.Tensor, teacher: torch.Tensor, heads: int, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Divergence of one kind of relation (equation 6). Shapes: states (B, H, T, d); loss (B,)."""
    return row_divergence(relations(student, heads), relations(teacher, heads), attention_mask)


class MiniLmLoss(nn.Module):
    """Query-query, key-key and value-value relations of the student's last layer and one of the teacher's."""

    needs_attention = True

    def __init__(self, settings: MiniLmSettings, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        super().__init__()
        self.settings = settings
        self.layer = (settings.layer or len(layer_shapes(teacher))) - 1
        if self.layer >= len(layer_shapes(teacher)):
            raise CompressionError(
                f"minilm.layer {settings.layer} is asked for; the teacher has {len(layer_shapes(teacher))}"
            )
        for name, model, layer in (("student", student, -1), ("teacher", teacher, self.layer)):
            width = layer_shapes(model)[layer].heads * head_size(model)
            if width % settings.heads:
                raise CompressionError(
                    f"minilm.heads = {settings.heads} does not divide the {name}'s attention width {width}"
                )

    def forward(self, student: Trace, teacher: Trace, attention_mask: torch.Tensor) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        heads, layer = self.settings.heads, self.layer
        pairs = (
            (student.queries[-1], teacher.queries[layer]),
            (student.keys[-1], teacher.keys[layer]),
            (student.values[-1], teacher.values[layer]),
        )
        losses = [relation_loss(ours, theirs, heads, attention_mask) for ours, theirs in pairs]
        return self.settings.weight * torch.stack(losses).sum(0)
