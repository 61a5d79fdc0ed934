"""Several teachers as one: the mean of what they hold likely.

Source: Hinton, Vinyals, Dean 2015, section 5 (an ensemble's arithmetic mean as the soft target); You, Xu,
Xu, Tao 2017, Learning from Multiple Teacher Networks (softened before the mean).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from app.artifact import Head
from app.errors import CompressionError
from compression.heads import slices


def mean_logits(
    teachers: Sequence[torch.Tensor], weights: Sequence[float], temperature: float
) -> torch.Tensor:
    """Logits whose softmax at this temperature is the weighted mean of the teachers' at this temperature.

    Shapes: each teacher's logits (N, C); the mean's (N, C). Weights need not sum to one.
    """
    shares = torch.tensor(weights, dtype=torch.float32)
    shares = shares / shares.sum()
    softened = torch.stack([functional.log_softmax(logits / temperature, dim=-1) for logits in teachers])
    return temperature * torch.logsumexp(softened + shares.log()[:, None, None], dim=0)


def by_heads(
    teachers: Sequence[torch.Tensor], weights: Sequence[float], temperature: float, heads: Sequence[Head]
) -> torch.Tensor:
    """The mean for each head by itself, of those teachers that have it.

    A teacher has the first heads or all of them: a linear one answers the label and no rating. Shapes: (N, C)
    each, C of all heads or of the first ones; the mean (N, C) of all heads.

    Raises:
        CompressionError: nobody teaches a head.
    """
    parts = []
    for head, part in zip(heads, slices(heads), strict=True):
        knowing = [
            index for index, logits in enumerate(teachers) if weights[index] and logits.shape[-1] >= part.stop
        ]
        if not knowing:
            raise CompressionError(f"no teacher has the head {head.name!r}")
        answers = [teachers[index][:, part] for index in knowing]
        parts.append(mean_logits(answers, [weights[index] for index in knowing], temperature))
    return torch.cat(parts, dim=-1)
