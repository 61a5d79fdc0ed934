"""Comparing two sets of attention rows, whatever they are rows of."""

from __future__ import annotations

import torch
from torch.nn import functional


def row_divergence(
    student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's rows from the teacher's, both softmaxed over real keys.

    Averaged over real queries and heads. Shapes: scores (B, H, T, T); attention_mask (B, T); loss (B,).
    """
    mask = attention_mask.bool()
    padding = ~mask[:, None, None, :]
    log_student = functional.log_softmax(student.masked_fill(padding, torch.finfo(student.dtype).min), dim=-1)
    log_teacher = functional.log_softmax(teacher.masked_fill(padding, torch.finfo(teacher.dtype).min), dim=-1)
    each = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    rows = each.masked_fill(padding, 0.0).sum(-1).mean(1)  # (B, T)
    return (rows * mask).sum(-1) / mask.sum(-1)


def over_tokens(each: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over real tokens of what is given for each token and width. Shapes: (B, T, D), (B, T); (B,)."""
    mask = attention_mask.to(each.dtype)
    return (each.mean(-1) * mask).sum(-1) / mask.sum(-1)
