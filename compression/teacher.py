"""The teacher: the user's own classifier as it is, or a backbone fine-tuned here on true labels."""

from __future__ import annotations

import torch
from torch import nn

from compression.batches import Batch


def true_labels(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy with the true labels. Shape: (B,)."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return nn.functional.cross_entropy(logits, batch.labels, reduction="none")
