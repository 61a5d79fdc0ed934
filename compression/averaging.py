"""Means of weights: of one training's along the way, and of several models'.

Source: Polyak, Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; the exponential form
as in Tarvainen, Valpola 2017, Mean Teachers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from app.errors import CompressionError


class AveragedWeights:
    """An exponential mean of a model's weights; part of every checkpoint.

    After step t the mean moves by one minus min(decay, (1 + t) / (10 + t)) towards the weights, so that the
    first steps do not hold it back.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._mean = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._mean, [weight.detach() for weight in self._weights], 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While open the model has the mean for its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, mean in zip(self._weights, self._mean, strict=True):
            kept = weight.detach().clone()
            weight.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """For accelerate."""
        return {"steps": self.steps, "mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For accelerate."""
        self.steps = state["steps"]
        for mean, stored in zip(self._mean, state["mean"], strict=True):
            mean.copy_(stored)


@torch.no_grad()
def mean_weights(models: Sequence[nn.Module], weights: Sequence[float] = ()) -> dict[str, torch.Tensor]:
    """The weighted mean of what models of one shape have learned, as a state to load; alike without weights.

    What is not a float (positions, for instance) is the first model's.
    Source: Wortsman et al. 2022, Model soups.

    Raises:
        CompressionError: the models do not have the same shape.
    """
    states = [model.state_dict() for model in models]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes[1:]):
        raise CompressionError("weights can be averaged only of models of the same shape")
    shares = torch.tensor(weights or [1.0] * len(states))
    shares = shares / shares.sum()
    return {
        name: torch.stack([share * state[name] for share, state in zip(shares, states, strict=True)]).sum(0)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }
