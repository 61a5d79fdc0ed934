"""Movement pruning: keep the weights that training moves away from zero, wherever they are now.

Every weight has a score. The forward pass uses only the weights of the highest scores; the backward pass
gives each score the gradient as if its weight had been used, so that scores of weights that shrink fall, and
dropped weights can come back until the masks are final. How many are dropped rises with the cubic schedule.
Source: Sanh, Wolf, Rush 2020, Movement Pruning: Adaptive Sparsity by Fine-Tuning, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from compression.batches import Batch, Rows
from compression.evaluation import Judge, Scores
from compression.pruning.unstructured import Scope, cubic_sparsity, largest, prunable
from compression.training import Objective

# Ranking millions of scores takes longer than a training step, so it is done this often in all.
_UPDATES = 100


class MovementObjective(nn.Module):
    """Another objective, minimised with masked weights while `attached`; the scores learn with the model.

    `rows` is how many rows the training will see. Over the last `settling` of them the masks stay as they
    are, so that the weights left can settle.
    """

    def __init__(
        self,
        objective: Objective,
        model: PreTrainedModel,
        final_sparsity: float,
        rows: int,
        scope: Scope = "global",
        settling: float = 0.3,
    ) -> None:
        super().__init__()
        self.objective = objective  # if it is a module, its parameters go on learning
        self._final_sparsity, self._scope = final_sparsity, scope
        self._changing_rows = max(1.0, rows * (1 - settling))
        self._parts = prunable(model)
        weights = [part.weight for part in self._parts.values()]
        self.scores = nn.ParameterList(torch.zeros_like(weight) for weight in weights)
        for index, weight in enumerate(weights):
            self.register_buffer(_mask(index), torch.ones_like(weight, dtype=torch.bool))
        # Both are kept in checkpoints, as the masks are.
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def progress(self) -> float:
        """How near the masks are to final; from 1 on they do not change."""
        return min(1.0, int(self.get_buffer("seen")) / self._changing_rows)

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """Which weights stay, by the name of their part."""
        return {name: self.get_buffer(_mask(index)).cpu() for index, name in enumerate(self._parts)}

    def forward(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        if model.training:
            self.get_buffer("seen").add_(len(batch.labels))
            self._update()
        return self.objective(model, batch)

    def judge(self, by: Judge) -> Judge:
        """Until the masks are final no weights are good enough to keep, and nobody needs to try them."""

        def judged(model: nn.Module, rows: Rows, chosen: Sequence[int]) -> Scores:
            if self.progress < 1.0:
                return Scores(accuracy=None, loss=1.0 - self.progress, n=len(chosen))
            return by(model, rows, chosen)

        return judged

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The model's dense parts multiply masked weights, in training and in evaluation."""
        for index, part in enumerate(self._parts.values()):
            part.forward = self._masked(part, index)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for part in self._parts.values():
                del part.forward

    def _masked(self, part: nn.Linear, index: int) -> Any:
        def forward(states: torch.Tensor) -> torch.Tensor:
            weight = _Masked.apply(part.weight, self.scores[index], self.get_buffer(_mask(index)))  # type: ignore[no-untyped-call]
            return functional.linear(states, cast(torch.Tensor, weight), part.bias)

        return forward

    @torch.no_grad()
    def _update(self) -> None:
        """Rank the scores anew, if it is time to."""
        due = int(self.progress * _UPDATES)
        if due <= int(self.get_buffer("updates")):
            return
        self.get_buffer("updates").fill_(due)
        scores = dict(zip(self._parts, (score.detach() for score in self.scores), strict=True))
        masks = largest(scores, cubic_sparsity(self.progress, self._final_sparsity), self._scope)
        for index, mask in enumerate(masks.values()):
            self.get_buffer(_mask(index)).copy_(mask)


class _Masked(torch.autograd.Function):
    """weight * mask, whose gradient reaches the score of every weight (straight through the ranking)."""

    @staticmethod
    def forward(context: Any, weight: torch.Tensor, _: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    def backward(context: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """By the weight where it stays, and by every score."""
        weight, mask = context.saved_tensors
        return slopes[0] * mask, slopes[0] * weight, None


def _mask(index: int) -> str:
    return f"mask_{index}"
