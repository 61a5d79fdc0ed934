"""The mean of the weights along the way, in place of where the last step left them.

Source: Polyak, Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; the exponential form
as in Tarvainen, Valpola 2017, Mean Teachers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


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
