"""Structured pruning of attention heads and FFN neurons.

By first-order importance: a gate of one is put on the output of every head and of every FFN neuron; the size
of the loss's gradient at that gate says how much the loss would change, to first order, if the part were
removed. By magnitude: the norm of all weights that belong to it. `gates` learns an importance in training.
Sources: Michel, Levy, Neubig 2019, Are Sixteen Heads Really Better than One?; Molchanov et al. 2017 (Taylor);
Li et al. 2017, Pruning Filters for Efficient ConvNets (magnitude).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.architecture import (
    encoder_layers,
    family_of,
    head_size,
    linear,
    set_head_count,
    set_linear,
)
from compression.batches import Batch
from compression.training import Objective

# FFN widths stay multiples of this: matrix kernels work in blocks.
FFN_MULTIPLE = 32


@dataclass(frozen=True)
class Importance:
    """Importance of every head and FFN neuron, one vector per layer; larger matters more."""

    heads: list[torch.Tensor]
    neurons: list[torch.Tensor]


@dataclass(frozen=True)
class Kept:
    """Which heads and neurons of each layer stay, ascending."""

    heads: list[list[int]]
    neurons: list[list[int]]


def importance(model: PreTrainedModel, objective: Objective, batches: Iterable[Batch]) -> Importance:
    """Sum over rows of the absolute gradient at each gate; the weights are left as they are."""
    family, size = family_of(model.config), head_size(model)
    totals = {}
    with frozen(model), ExitStack() as hooks:
        for number, layer in enumerate(encoder_layers(model)):
            totals["heads", number] = _Gate(linear(layer, family.attention_output), columns=size)
            totals["neurons", number] = _Gate(linear(layer, family.ffn_output), columns=1)
        for gate in totals.values():
            hooks.enter_context(gate)
        for batch in batches:
            objective(model, batch).sum().backward()
            for gate in totals.values():
                gate.collect()
    layers = range(len(encoder_layers(model)))
    return Importance(
        [totals["heads", number].total for number in layers],
        [totals["neurons", number].total for number in layers],
    )


@torch.no_grad()
def magnitude(model: PreTrainedModel) -> Importance:
    """Norm of the weights and biases that make and read every head and FFN neuron."""
    family, size = family_of(model.config), head_size(model)
    heads, neurons = [], []
    for layer in encoder_layers(model):
        into = [linear(layer, path) for path in (family.query, family.key, family.value)]
        squares = _squares(into, linear(layer, family.attention_output))
        heads.append(squares.view(-1, size).sum(1).sqrt())
        squares = _squares([linear(layer, family.ffn_input)], linear(layer, family.ffn_output))
        neurons.append(squares.sqrt())
    return Importance(heads, neurons)


def choose(scores: Importance, heads_kept: int, neurons_kept: int, *, by_layer: bool = True) -> Kept:
    """Keep the most important parts over all layers, so that layers may end uneven.

    `by_layer` divides scores by their layer's norm first (Michel et al. 2019, section 2.3); every layer keeps
    at least one head and `FFN_MULTIPLE` neurons.
    """
    heads, neurons = scores.heads, scores.neurons
    if by_layer:
        heads, neurons = _by_layer(heads), _by_layer(neurons)
    return Kept(
        heads=_largest(heads, heads_kept, minimum=1, multiple=1),
        neurons=_largest(neurons, neurons_kept, minimum=FFN_MULTIPLE, multiple=FFN_MULTIPLE),
    )


@torch.no_grad()
def remove(model: PreTrainedModel, kept: Kept) -> None:
    """Take everything else out of the weights; the model then has its own shape in each layer."""
    family, size = family_of(model.config), head_size(model)
    for layer, heads, neurons in zip(encoder_layers(model), kept.heads, kept.neurons, strict=True):
        columns = torch.tensor([head * size + offset for head in heads for offset in range(size)])
        for path in (family.query, family.key, family.value):
            set_linear(layer, path, rows_of(linear(layer, path), columns))
        set_linear(
            layer, family.attention_output, columns_of(linear(layer, family.attention_output), columns)
        )
        index = torch.tensor(neurons)
        set_linear(layer, family.ffn_input, rows_of(linear(layer, family.ffn_input), index))
        set_linear(layer, family.ffn_output, columns_of(linear(layer, family.ffn_output), index))
        set_head_count(model, layer, len(heads))


class _Gate:
    """While open, the input of a dense part is multiplied by a gate of ones, one for each row and part.

    A gate for each row gives each row's own gradient in one backward pass. Shapes: the input (B, T, W), the
    gate (B, W / columns).
    """

    def __init__(self, module: nn.Linear, columns: int) -> None:
        self._module, self._columns = module, columns
        self._ones = torch.ones(0)
        self.total = torch.zeros(module.in_features // columns)

    def __enter__(self) -> None:
        self._handle = self._module.register_forward_pre_hook(self._multiply)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _multiply(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        states = inputs[0]
        self._ones = torch.ones(len(states), len(self.total), device=states.device, requires_grad=True)
        return states * self._ones.repeat_interleave(self._columns, dim=-1).unsqueeze(1).to(states)

    def collect(self) -> None:
        """Add this batch's gradients."""
        assert self._ones.grad is not None  # noqa: S101 - a backward pass came before
        self.total += self._ones.grad.abs().sum(0).cpu()


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """Gradients reach the gates and not the weights."""
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    model.eval()
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)


def _squares(into: list[nn.Linear], out: nn.Linear) -> torch.Tensor:
    """Sum of squares of what belongs to each inner element. Shape: (W,)."""
    made = sum((part.weight.square().sum(1) + part.bias.square() for part in into), torch.zeros(()))
    return made + out.weight.square().sum(0)


def _by_layer(scores: list[torch.Tensor]) -> list[torch.Tensor]:
    return [score / score.norm().clamp_min(1e-12) for score in scores]


def _largest(scores: list[torch.Tensor], count: int, minimum: int, multiple: int) -> list[list[int]]:
    """Per layer the kept indices: the largest scores overall, counts rounded to `multiple`."""
    threshold = torch.cat(scores).topk(max(1, count)).values[-1]
    kept = []
    for score in scores:
        wanted = int((score >= threshold).sum())
        all_of_it = wanted == len(score)
        rounded = wanted if all_of_it else max(minimum, round(wanted / multiple) * multiple)
        kept.append(sorted(score.topk(min(rounded, len(score))).indices.tolist()))
    return kept


def rows_of(part: nn.Linear, index: torch.Tensor) -> nn.Linear:
    """A dense part with the chosen outputs alone."""
    smaller = nn.Linear(part.in_features, len(index)).to(part.weight)
    smaller.weight.copy_(part.weight[index])
    smaller.bias.copy_(part.bias[index])
    return smaller


def columns_of(part: nn.Linear, index: torch.Tensor) -> nn.Linear:
    """A dense part with the chosen inputs alone."""
    smaller = nn.Linear(len(index), part.out_features).to(part.weight)
    smaller.weight.copy_(part.weight[:, index])
    smaller.bias.copy_(part.bias)
    return smaller
