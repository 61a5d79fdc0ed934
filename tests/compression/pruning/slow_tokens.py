"""Token pruning the obvious way: one text, one head, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from compression.architecture import encoder_layers
from compression.batches import Batch

# From a layer's number and the attention each token received: who goes on, and how far each is present.
Choice = Callable[[int, list[float]], tuple[list[int], list[float]]]


def slow_answer(
    model: PreTrainedModel, input_ids: list[int], choose: Choice
) -> tuple[torch.Tensor, list[int]]:
    """A BERT's logits, every pair weighed and tokens deleted; and how many were left by each choice."""
    encoder, ids = model.get_submodule("bert"), torch.tensor([input_ids])
    hidden, left = encoder.get_submodule("embeddings")(input_ids=ids)[0], []
    present = torch.ones(len(hidden), dtype=hidden.dtype)
    layers = encoder_layers(model)
    for number, layer in enumerate(layers):
        attention = layer.get_submodule("attention.self")
        q, k, v = (attention.get_submodule(name)(hidden) for name in ("query", "key", "value"))
        outputs, received = [], torch.zeros(len(hidden), dtype=hidden.dtype)
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            weights = torch.exp(q[:, part] @ k[:, part].T / math.sqrt(8)) * present
            weights = weights / weights.sum(-1, keepdim=True)
            outputs.append(weights @ v[:, part])
            received += sum(present[i] * weights[i] for i in range(len(hidden))) / 4
        hidden = layer.get_submodule("attention.output")(torch.cat(outputs, -1), hidden)
        if number < len(layers) - 1:
            chosen, fade = choose(number, received.tolist())
            hidden, present = hidden[chosen], present[chosen] * torch.tensor(fade, dtype=hidden.dtype)
            left.append(len(chosen))
        hidden = layer.get_submodule("output")(layer.get_submodule("intermediate")(hidden), hidden)
    pooled = encoder.get_submodule("pooler")(hidden[None])
    answer: torch.Tensor = model.get_submodule("classifier")(pooled)[0]
    return answer, left


def texts_of(batch: Batch) -> list[list[int]]:
    """Every text's ids without its padding."""
    rows = zip(batch.input_ids, batch.attention_mask, strict=True)
    return [ids[: int(mask.sum())].tolist() for ids, mask in rows]
