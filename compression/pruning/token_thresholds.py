"""Thresholds of token pruning, learned: how much attention a token must receive to go on, layer by layer.

While they are learned, tokens above a threshold are present for the most part and those below hardly, so that
the loss can be differentiated by the threshold; what is minimised is the training loss plus the share of
tokens that stay. Then the thresholds are fixed, tokens below them are gone, and the model learns to live with
it. Source: Kim et al. 2022, Learned Token Pruning for Transformers, section 3. The score here is the paper's
times the number of tokens, 1 on average, so that a threshold means the same in texts of every length; and a
token that fades is attended to less, where the paper scales its states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.architecture import encoder_layers
from compression.batches import Batch, Rows
from compression.evaluation import Scores, batches
from compression.pruning.tokens import Pruner, check_family, significance
from compression.training import Objective


def soft_mask(significance: torch.Tensor, threshold: torch.Tensor, temperature: float) -> torch.Tensor:
    """How far each token is present while the threshold is learned: half at the threshold. Shape: (B, T).

    Source: Kim et al. 2022, section 3 (the soft mask: a sigmoid of score less threshold over a temperature).
    """
    return torch.sigmoid((significance - threshold) / temperature)


def rising_thresholds(last: float, layers: int) -> torch.Tensor:
    """Where thresholds begin: rising evenly to `last` after the last layer but one. Shape: (layers - 1,).

    Source: Kim et al. 2022, section 3 (thresholds start as a linear function of the layer).
    """
    return last * torch.arange(1, layers) / (layers - 1)


def share_present(presences: Sequence[torch.Tensor], lengths: torch.Tensor) -> torch.Tensor:
    """Which share of a text's tokens is present after a layer, the mean over layers. Shape: (B,).

    Shapes: presences (B, T) each, lengths (B, 1).
    Source: Kim et al. 2022, section 3 (the regularizer: the L1 norm of the masks); the share is ours.
    """
    return torch.stack([presence.sum(1, keepdim=True) / lengths for presence in presences]).mean(0)[:, 0]


class ThresholdObjective(nn.Module):
    """Another objective plus `weight` times the share of tokens that stay, while `attached`.

    `rows` is how many rows the training will see. Thresholds learn `pace` times as fast as the model.
    """

    def __init__(
        self,
        objective: Objective,
        model: PreTrainedModel,
        weight: float,
        temperature: float,
        start: float,
        rows: int,
        pace: float,
    ) -> None:
        super().__init__()
        check_family(model)
        self.objective = objective
        self._weight, self._temperature, self._pace, self._rows = weight, temperature, pace, rows
        self._model = (model,)  # in a tuple it is no part of this module
        layers = len(encoder_layers(model))
        self.thresholds = nn.Parameter(rising_thresholds(start, layers) / pace)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._pruner = _SoftPruner(self)

    def forward(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        if model.training:
            self.get_buffer("seen").add_(len(batch.labels))
        return self.objective(model, batch) + self._weight * self._pruner.share()

    def current(self) -> torch.Tensor:
        """The thresholds as they are now; each of the optimizer's steps takes them `pace` times as far."""
        return self.thresholds + (self._pace - 1.0) * self.thresholds.detach()

    def mask(self, layer: int, received: torch.Tensor) -> torch.Tensor | None:
        """How far each token stays after a layer; None after the last. Shape: (B, T)."""
        if layer >= len(self.thresholds):
            return None
        return soft_mask(received, self.current()[layer], self._temperature)

    def judge(self, _: nn.Module, __: Rows, chosen: Sequence[int]) -> Scores:
        """While thresholds are learned there is nothing to choose between: the last ones count."""
        left = 1.0 - int(self.get_buffer("seen")) / self._rows
        return Scores(accuracy=None, loss=left, n=len(chosen))

    def learned(self) -> tuple[float, ...]:
        """Where the thresholds came to be."""
        return tuple(self.current().detach().cpu().tolist())

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Tokens fade by the thresholds as they are."""
        handles = self._pruner.hook(self._model[0])
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def shares_kept(model: PreTrainedModel, rows: Rows, chosen: Sequence[int]) -> list[float]:
    """Which share of a text's tokens goes on after each layer but the last, the mean over the chosen rows."""
    model.eval()
    counter = _Counter()
    handles = counter.hook(model)
    for batch in batches(rows, chosen):
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    for handle in handles:
        handle.remove()
    return [total / len(chosen) for total in counter.totals[:-1]]


class _Counter(Pruner):
    """Prunes as the model itself does, and adds up the share of tokens left after each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.totals: list[float] = []

    def drop(self, part: nn.Module, inputs: object, output: Any) -> None:
        layer = self._layer
        super().drop(part, inputs, output)
        self.totals += [0.0] * (layer + 1 - len(self.totals))
        present = (self._presence > 0).sum(1, keepdim=True)
        self.totals[layer] += float((present / self._lengths).sum())


class _SoftPruner(Pruner):
    """Lets tokens fade by an objective's thresholds, and remembers how many stayed."""

    def __init__(self, objective: ThresholdObjective) -> None:
        super().__init__()
        self._objective = (objective,)
        self._presences: list[torch.Tensor] = []

    def begin(self, model: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        super().begin(model, positional, named)
        self._presences = []

    def staying(self, layer: int, weights: torch.Tensor) -> torch.Tensor | None:
        mask = self._objective[0].mask(layer, significance(weights, self._presence))
        if mask is not None:
            self._presences.append(self._presence * mask)
        return mask

    def share(self) -> torch.Tensor:
        """Of the last pass. Shape: (B,)."""
        return share_present(self._presences, self._lengths)
