"""What a model computes on the way to its answer, for the losses that compare it layer by layer.

Queries, keys and values are read off the dense parts that give them, so nothing depends on how a family or
a release of transformers returns its attention maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from compression.architecture import encoder_layers, family_of, layer_shapes, linear
from compression.batches import Batch


@dataclass(frozen=True)
class Trace:
    """One forward pass.

    Shapes: logits (B, C); hidden, embeddings first, (B, T, D) each; queries, keys and values, one for each
    layer, (B, H, T, d). Attention parts are there only where they were asked for.
    """

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    queries: tuple[torch.Tensor, ...] = ()
    keys: tuple[torch.Tensor, ...] = ()
    values: tuple[torch.Tensor, ...] = ()

    def attention_scores(self, layer: int) -> torch.Tensor:
        """Scores before the softmax, counted from layer 0. Shape: (B, H, T, T)."""
        queries, keys = self.queries[layer], self.keys[layer]
        return queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])


def trace(model: PreTrainedModel, batch: Batch, *, attention: bool) -> Trace:
    """Run the model and remember."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if not attention:
        output = model(**inputs, output_hidden_states=True)
        return Trace(output.logits.float(), _floats(output.hidden_states))
    heads = [shape.heads for shape in layer_shapes(model)]
    with _recorded(model) as parts:
        output = model(**inputs, output_hidden_states=True)
    return Trace(
        output.logits.float(),
        _floats(output.hidden_states),
        *(
            tuple(_by_head(states, count) for states, count in zip(parts[name], heads, strict=True))
            for name in ("query", "key", "value")
        ),
    )


@contextmanager
def _recorded(model: PreTrainedModel) -> Iterator[dict[str, list[torch.Tensor]]]:
    """While open, what the query, key and value parts give is appended, layer by layer."""
    family = family_of(model.config)
    parts: dict[str, list[torch.Tensor]] = {"query": [], "key": [], "value": []}
    with ExitStack() as hooks:
        for layer in encoder_layers(model):
            for name, states in parts.items():
                module = linear(layer, getattr(family, name))
                hooks.callback(module.register_forward_hook(_appending(states)).remove)
        yield parts


def _appending(states: list[torch.Tensor]) -> Any:
    def hook(_module: object, _inputs: object, output: torch.Tensor) -> None:
        states.append(output)

    return hook


def _by_head(states: torch.Tensor, heads: int) -> torch.Tensor:
    rows, tokens, width = states.shape
    return states.float().view(rows, tokens, heads, width // heads).transpose(1, 2)


def _floats(states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(state.float() for state in states)
