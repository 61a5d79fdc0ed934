"""Learned gates: which heads, neurons, layers and elements of the states stay is part of the training.

Every part has a gate between 0 and 1, drawn anew for every batch from a distribution that puts much of its
mass on exactly 0 and exactly 1, and that can be differentiated. What is minimised is the training loss plus a
Lagrangian that drives the expected share of closed gates to its target, which rises linearly at first. What
has been learned is then used as an importance: the parts of the most open gates are kept.
Sources: Louizos, Welling, Kingma 2018, Learning Sparse Neural Networks through L0 Regularization (hard
concrete); Xia, Zhong, Chen 2022, Structured Pruning Learns Compact and Accurate Models (CoFi: which masks,
and the Lagrangian).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.architecture import encoder_layers, family_of, head_size, layer_shapes, linear
from compression.batches import Batch, Rows
from compression.evaluation import Scores
from compression.pruning import layers, width
from compression.pruning.structured import Importance
from compression.training import Objective

# Of Louizos et al., section 4.
_TEMPERATURE, _LOW, _HIGH = 2.0 / 3.0, -0.1, 1.1
# Gates begin this far open: 9 of 10 draws are above zero.
_START = math.log(9.0) + _TEMPERATURE * math.log(-_LOW / _HIGH)
KINDS = ("heads", "neurons", "layers", "elements")


def drawn(openness: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Gates for one batch, from uniform random numbers of the same shape.

    Source: Louizos et al. 2018, equations 10 and 11.
    """
    noise = uniform.clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((noise.log() - (1 - noise).log() + openness) / _TEMPERATURE)
    return (soft * (_HIGH - _LOW) + _LOW).clamp(0.0, 1.0)


def chance_open(openness: torch.Tensor) -> torch.Tensor:
    """How likely each gate is above zero (Louizos et al. 2018, equation 12)."""
    return torch.sigmoid(openness - _TEMPERATURE * math.log(-_LOW / _HIGH))


def settled(openness: torch.Tensor) -> torch.Tensor:
    """The gate that stands for its distribution (Louizos et al. 2018, equation 13)."""
    return (torch.sigmoid(openness) * (_HIGH - _LOW) + _LOW).clamp(0.0, 1.0)


class GatedObjective(nn.Module):
    """Another objective, minimised with gates on the model's parts while `attached`.

    `closed` says for each of `KINDS` which share is to be closed in the end; kinds left out have no gates.
    `rows` is how many rows the training will see; over the first `rising` of them the shares rise from 0.
    Gates and multipliers learn `pace` times as fast as the model's weights.
    """

    def __init__(
        self,
        objective: Objective,
        model: PreTrainedModel,
        closed: Mapping[str, float],
        rows: int,
        pace: float,
        rising: float = 0.5,
    ) -> None:
        super().__init__()
        self.objective = objective
        self._closed = {kind: share for kind, share in closed.items() if share > 0}
        self._rising_rows, self._rows, self._pace = max(1.0, rows * rising), rows, pace
        self._model = (model,)  # in a tuple it is no part of this module
        counts = _counts(model)
        start = _START / pace
        self.openness = nn.ParameterDict({kind: torch.full((counts[kind],), start) for kind in self._closed})
        self.multipliers = nn.ParameterDict({kind: torch.zeros(2) for kind in self._closed})
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._gates: dict[str, torch.Tensor] = {}

    def forward(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        if model.training:
            self.get_buffer("seen").add_(len(batch.labels))
        self._gates = {kind: self._gate(kind, model.training) for kind in self._closed}
        return self.objective(model, batch) + self.penalty()

    def penalty(self) -> torch.Tensor:
        """The Lagrangian of all kinds: the multipliers climb it while everything else descends.

        Source: Xia et al. 2022, section 3.1.
        """
        risen = min(1.0, int(self.get_buffer("seen")) / self._rising_rows)
        terms = []
        for kind, share in self._closed.items():
            excess = 1.0 - chance_open(self._paced(self.openness[kind])).mean() - share * risen
            linear_term, square_term = _climbing(self._paced(self.multipliers[kind]))
            terms.append(linear_term * excess + square_term * excess**2)
        return torch.stack(terms).sum()

    def judge(self, _: nn.Module, __: Rows, chosen: Sequence[int]) -> Scores:
        """While gates are drawn there is nothing to choose between: the last weights count."""
        left = 1.0 - int(self.get_buffer("seen")) / self._rows
        return Scores(accuracy=None, loss=left, n=len(chosen))

    def learned(self, kind: str) -> torch.Tensor:
        """How open every gate of a kind came to be."""
        return self._paced(self.openness[kind]).detach().cpu()

    def importance(self) -> Importance:
        """Heads and neurons by layer; kinds without gates matter all the same."""
        shapes = layer_shapes(self._model[0])
        heads, neurons = [shape.heads for shape in shapes], [shape.ffn_width for shape in shapes]
        return Importance(
            list(self.chances("heads").split(heads)), list(self.chances("neurons").split(neurons))
        )

    def chances(self, kind: str) -> torch.Tensor:
        """How likely every gate of a kind is open; 1 where there are none."""
        if kind in self._closed:
            return chance_open(self.learned(kind))
        return torch.ones(_counts(self._model[0])[kind])

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply the settled gates into the weights: behind heads and neurons, in front of elements.

        Those of layers are on a difference, which no weight stands for; they are kept or dropped as they are.
        """
        model = self._model[0]
        family, size = family_of(model.config), head_size(model)
        for kind, path, columns in _gated_inputs(family.attention_output, family.ffn_output, size):
            if kind in self._closed:
                parts = [linear(layer, path) for layer in encoder_layers(model)]
                gates = settled(self.learned(kind)).split([part.in_features // columns for part in parts])
                for part, gate in zip(parts, gates, strict=True):
                    part.weight.mul_(gate.repeat_interleave(columns).to(part.weight))
        if "elements" in self._closed:
            for norm in width.norms(model):
                norm.weight.mul_(settled(self.learned("elements")).to(norm.weight))
                norm.bias.mul_(settled(self.learned("elements")).to(norm.bias))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The model's parts are multiplied by their gates, drawn in training and settled in evaluation."""
        model = self._model[0]
        family, size = family_of(model.config), head_size(model)
        with ExitStack() as hooks:
            for kind, path, columns in _gated_inputs(family.attention_output, family.ffn_output, size):
                start = 0
                for layer in encoder_layers(model):
                    part = linear(layer, path)
                    stop = start + part.in_features // columns
                    hook = self._on_input(kind, slice(start, stop), columns)
                    hooks.callback(part.register_forward_pre_hook(hook).remove)
                    start = stop
            for number, layer in enumerate(encoder_layers(model)):
                handle = layer.register_forward_hook(self._on_layer(number), with_kwargs=True)
                hooks.callback(handle.remove)
            for norm in width.norms(model):
                hooks.callback(norm.register_forward_hook(self._on_states).remove)
            yield

    def _on_input(self, kind: str, chosen: slice, columns: int) -> Any:
        def hook(part: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
            if kind not in self._closed:
                return None
            gate = self._current(kind, part.training)[chosen].repeat_interleave(columns)
            return inputs[0] * gate.to(inputs[0])

        return hook

    def _on_layer(self, number: int) -> Any:
        def hook(layer: nn.Module, positional: Any, named: Any, output: Any) -> Any:
            if "layers" not in self._closed:
                return output
            gate = self._current("layers", layer.training)[number]
            return layers.skipped(layers.input_of(positional, named), output, gate)

        return hook

    def _on_states(self, norm: nn.Module, _: object, states: torch.Tensor) -> torch.Tensor:
        if "elements" not in self._closed:
            return states
        return states * self._current("elements", norm.training).to(states)

    def _current(self, kind: str, training: bool) -> torch.Tensor:
        """The gates of this batch; in evaluation nobody has drawn any."""
        return self._gates[kind] if training and kind in self._gates else self._gate(kind, training=False)

    def _gate(self, kind: str, training: bool) -> torch.Tensor:
        openness = self._paced(self.openness[kind])
        return drawn(openness, torch.rand_like(openness)) if training else settled(openness)

    def _paced(self, parameter: torch.Tensor) -> torch.Tensor:
        """A parameter times `pace`, so that each of the optimizer's steps takes it so much farther."""
        return parameter + (self._pace - 1.0) * parameter.detach()


def _climbing(multipliers: torch.Tensor) -> torch.Tensor:
    """The same values with the gradient turned round."""
    return 2.0 * multipliers.detach() - multipliers


def _gated_inputs(attention_output: str, ffn_output: str, size: int) -> list[tuple[str, str, int]]:
    """Which dense part reads what a kind of gate is on, and how many of its columns each gate is on."""
    return [("heads", attention_output, size), ("neurons", ffn_output, 1)]


def _counts(model: PreTrainedModel) -> dict[str, int]:
    shapes = layer_shapes(model)
    return {
        "heads": sum(shape.heads for shape in shapes),
        "neurons": sum(shape.ffn_width for shape in shapes),
        "layers": len(shapes),
        "elements": int(model.config.hidden_size),
    }
