"""Several teachers as one: the mean of what they hold likely.

Source: Hinton, Vinyals, Dean 2015, section 5 (an ensemble's arithmetic mean as the soft target); You, Xu,
Xu, Tao 2017, Learning from Multiple Teacher Networks (softened before the mean).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


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
