"""Hidden width: elements of the states leave every matrix that writes or reads them.

The states run through all layers, so an element is kept or dropped everywhere at once: in the embeddings, in
every LayerNorm, and in both sides of attention and FFN. The classifier's own inner width stays.
Source: Xia, Zhong, Chen 2022, Structured Pruning Learns Compact and Accurate Models (CoFi), section 3.1, for
what is removed with an element; Molchanov et al. 2017 (Taylor) and Li et al. 2017 (magnitude) for which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import nn
from transformers import PreTrainedModel

from app.errors import RecipeError
from compression.architecture import encoder_layers, family_of, head_size, linear, set_linear
from compression.batches import Batch
from compression.pruning.structured import columns_of, frozen, rows_of
from compression.training import Objective


def importance(model: PreTrainedModel, objective: Objective, batches: Iterable[Batch]) -> torch.Tensor:
    """Sum over rows of the absolute gradient at a gate of ones on the states after every LayerNorm.

    Shape: (H,); larger matters more.
    """
    totals = torch.zeros(int(model.config.hidden_size))
    with frozen(model), ExitStack() as hooks:
        gates = [_Gate() for _ in norms(model)]
        for norm, gate in zip(norms(model), gates, strict=True):
            hooks.callback(norm.register_forward_hook(gate).remove)
        for batch in batches:
            objective(model, batch).sum().backward()
            # One gate for the whole model: its slope is the sum of those of its places.
            totals += torch.stack([gate.slopes() for gate in gates]).sum(0).abs().sum(0)
    return totals


@torch.no_grad()
def magnitude(model: PreTrainedModel) -> torch.Tensor:
    """Norm of all weights that write or read each element. Shape: (H,)."""
    family = family_of(model.config)
    squares = sum((table.weight.square().sum(0) for table in _tables(model)), torch.zeros(()))
    for layer in encoder_layers(model):
        for path in (family.query, family.key, family.value, family.ffn_input):
            squares = squares + linear(layer, path).weight.square().sum(0)
        for path in (family.attention_output, family.ffn_output):
            squares = squares + linear(layer, path).weight.square().sum(1)
    return squares.sqrt()


def choose(scores: torch.Tensor, count: int, multiple: int) -> list[int]:
    """The most important elements, ascending; their number is rounded to a multiple of a head's size."""
    rounded = max(multiple, round(count / multiple) * multiple)
    return sorted(scores.topk(min(rounded, len(scores))).indices.tolist())


@torch.no_grad()
def keep(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Take every other element out of the weights.

    Raises:
        RecipeError: as many elements as no whole number of heads has, or a bottleneck student.
    """
    family, size, index = family_of(model.config), head_size(model), torch.tensor(list(kept))
    if family.name == "mobilebert":
        raise RecipeError("a bottleneck student is narrow inside; its hidden width is not pruned")
    if len(index) % size:
        raise RecipeError(f"{len(index)} elements are no multiple of the size of a head, {size}")
    for table in _tables(model):
        table.weight = nn.Parameter(table.weight[:, index].clone())
        table.embedding_dim = len(index)
    for norm in norms(model):
        norm.weight, norm.bias = (nn.Parameter(part[index].clone()) for part in (norm.weight, norm.bias))
        norm.normalized_shape = (len(index),)
    for layer in encoder_layers(model):
        for path in (family.query, family.key, family.value, family.ffn_input):
            set_linear(layer, path, columns_of(linear(layer, path), index))
        for path in (family.attention_output, family.ffn_output):
            set_linear(layer, path, rows_of(linear(layer, path), index))
    set_linear(model, family.classifier_dense, columns_of(linear(model, family.classifier_dense), index))
    model.config.hidden_size = len(index)
    # What a fresh model of this configuration is built with; every layer's own count is stored apart.
    model.config.num_attention_heads = len(index) // size


def norms(model: PreTrainedModel) -> list[nn.LayerNorm]:
    """All LayerNorms, in the order in which the states pass them."""
    family = family_of(model.config)
    return [part for part in model.get_submodule(family.encoder).modules() if isinstance(part, nn.LayerNorm)]


def _tables(model: PreTrainedModel) -> Iterator[nn.Embedding]:
    embeddings = model.get_submodule(family_of(model.config).embeddings)
    return (part for part in embeddings.modules() if isinstance(part, nn.Embedding))


class _Gate:
    """A forward hook that multiplies states by ones, one for each row and element."""

    def __init__(self) -> None:
        self._ones = torch.ones(0)

    def __call__(self, _: nn.Module, __: object, states: torch.Tensor) -> torch.Tensor:
        self._ones = torch.ones(len(states), 1, states.shape[-1], device=states.device, requires_grad=True)
        return states * self._ones.to(states)

    def slopes(self) -> torch.Tensor:
        """Of each row of the last batch and each element. Shape: (B, H)."""
        assert self._ones.grad is not None  # noqa: S101 - a backward pass came before
        return self._ones.grad[:, 0].cpu()
