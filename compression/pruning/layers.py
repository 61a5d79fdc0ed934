"""Whole layers by first-order importance.

A layer's output is its input plus what it adds; a gate of one is put on what it adds. The size of the loss's
gradient at that gate says how much the loss would change, to first order, if the layer were skipped.
Sources: Molchanov et al. 2017 (Taylor); Sajjad et al. 2023, On the Effect of Dropping Layers of Pre-trained
Transformer Models.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.architecture import encoder_layers, family_of, linear
from compression.batches import Batch
from compression.pruning.structured import frozen
from compression.training import Objective


def importance(model: PreTrainedModel, objective: Objective, batches: Iterable[Batch]) -> torch.Tensor:
    """Sum over rows of the absolute gradient at each layer's gate; larger matters more. Shape: (L,)."""
    layers = encoder_layers(model)
    gates = [_Gate() for _ in layers]
    totals = torch.zeros(len(layers))
    with frozen(model), ExitStack() as hooks:
        for layer, gate in zip(layers, gates, strict=True):
            handle = layer.register_forward_hook(gate, with_kwargs=True)
            hooks.callback(handle.remove)
        for batch in batches:
            objective(model, batch).sum().backward()
            totals += torch.stack([gate.slope() for gate in gates])
    return totals


@torch.no_grad()
def magnitude(model: PreTrainedModel) -> torch.Tensor:
    """Norm of the two dense parts that add to the states. Shape: (L,)."""
    family = family_of(model.config)
    paths = (family.attention_output, family.ffn_output)
    return torch.stack(
        [
            torch.stack([linear(layer, path).weight.square().sum() for path in paths]).sum().sqrt()
            for layer in encoder_layers(model)
        ]
    )


def choose(scores: torch.Tensor, count: int) -> tuple[int, ...]:
    """The most important layers, ascending; one at least."""
    return tuple(sorted(scores.topk(max(1, count)).indices.tolist()))


def skipped(states: torch.Tensor, output: Any, gate: torch.Tensor) -> Any:
    """A layer's output with what it adds multiplied by a gate; transformers 4 wraps it in a tuple."""
    changed = output[0] if isinstance(output, tuple) else output
    changed = states + gate.to(states) * (changed - states)
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def input_of(positional: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
    """The states a layer was called with."""
    states: torch.Tensor = positional[0] if positional else next(iter(named.values()))
    return states


class _Gate:
    """A forward hook with a gate of one for each row."""

    def __init__(self) -> None:
        self._ones = torch.ones(0)

    def __call__(self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        states = input_of(positional, named)
        self._ones = torch.ones(len(states), 1, 1, device=states.device, requires_grad=True)
        return skipped(states, output, self._ones)

    def slope(self) -> torch.Tensor:
        """Sum over the last batch's rows."""
        assert self._ones.grad is not None  # noqa: S101 - a backward pass came before
        return self._ones.grad.abs().sum().cpu()
