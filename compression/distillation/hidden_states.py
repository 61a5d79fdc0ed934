"""Hidden states, layer by layer.

Source: Sanh et al. 2019, DistilBERT (cosine between the states of student and teacher); the even layer map
is that of Jiao et al. 2020, TinyBERT, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from app.errors import CompressionError
from compression.distillation.trace import Trace


def layer_map(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """For each student layer the teacher layer (counted from 1) it follows, evenly spread, last to last."""
    return tuple(round((index + 1) * teacher_layers / student_layers) for index in range(student_layers))


def hidden_state_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    layers: Sequence[int],
    attention_mask: torch.Tensor,
) -> torch.Tensor:
    """One minus the cosine between mapped states, averaged over real tokens and layers.

    Shapes: states (B, T, D), embeddings first as transformers gives them; attention_mask (B, T); loss (B,).
    """
    mask = attention_mask.float()
    tokens = mask.sum(-1)
    losses = []
    for index, teacher_layer in enumerate(layers, start=1):
        cosine = functional.cosine_similarity(student[index].float(), teacher[teacher_layer].float(), dim=-1)
        losses.append(((1.0 - cosine) * mask).sum(-1) / tokens)
    return torch.stack(losses).mean(0)


class HiddenStateLoss(nn.Module):
    """The weighted loss over mapped layers."""

    needs_attention = False

    def __init__(
        self, weight: float, student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int]
    ) -> None:
        super().__init__()
        self.weight, self.layers = weight, tuple(layers)
        widths = int(student.config.hidden_size), int(teacher.config.hidden_size)
        if widths[0] != widths[1]:
            raise CompressionError(
                f"hidden states are compared as they are, and the student is {widths[0]} wide, its teacher "
                f"{widths[1]}; take tinybert.hidden, which has a projection, or minilm"
            )

    def forward(self, student: Trace, teacher: Trace, attention_mask: torch.Tensor) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        return self.weight * hidden_state_loss(student.hidden, teacher.hidden, self.layers, attention_mask)
