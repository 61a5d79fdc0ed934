"""Single weights set to zero: smaller when the file is compressed, and no faster.

No kernel that serves here skips zeros, so latency and memory stay as they are; a version is smaller only
where it is stored or sent compressed.
Sources: Han et al. 2015, Learning both Weights and Connections (magnitude); Zhu, Gupta 2017, To Prune or Not
to Prune (the cubic schedule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.architecture import encoder_layers, family_of, linear
from compression.batches import Batch, Rows
from compression.evaluation import Judge, Scores
from compression.training import Objective

# True where a weight stays; by the name of its part.
Masks = Mapping[str, torch.Tensor]
# Over all parts together, or the same share of each.
Scope = Literal["global", "layer"]


def prunable(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The dense parts of all encoder layers, where nearly all multiplied weights are."""
    family = family_of(model.config)
    paths = (family.query, family.key, family.value, family.attention_output)
    return {
        f"{number}.{path}": linear(layer, path)
        for number, layer in enumerate(encoder_layers(model))
        for path in (*paths, family.ffn_input, family.ffn_output)
    }


def magnitude_masks(model: PreTrainedModel, sparsity: float, scope: Scope) -> dict[str, torch.Tensor]:
    """Keep the weights farthest from zero."""
    scores = {name: part.weight.detach().abs() for name, part in prunable(model).items()}
    return largest(scores, sparsity, scope)


def largest(scores: Mapping[str, torch.Tensor], sparsity: float, scope: Scope) -> dict[str, torch.Tensor]:
    """Masks of the highest scores; the share `sparsity` of them all, or of each, is dropped."""
    if scope == "layer":
        return {name: _largest(score.flatten(), sparsity).view_as(score) for name, score in scores.items()}
    together = _largest(torch.cat([score.flatten() for score in scores.values()]), sparsity)
    parts = together.split([score.numel() for score in scores.values()])
    return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


@torch.no_grad()
def apply(model: PreTrainedModel, masks: Masks) -> None:
    """Set every weight that does not stay to zero."""
    for name, part in prunable(model).items():
        part.weight.mul_(masks[name].to(part.weight.device))


def sparsities(model: PreTrainedModel) -> dict[str, float]:
    """Share of zeros in every dense part."""
    return {name: float((part.weight == 0).float().mean()) for name, part in prunable(model).items()}


def sparsity(model: PreTrainedModel) -> float:
    """Share of zeros over all dense parts."""
    parts = prunable(model).values()
    return sum(int((part.weight == 0).sum()) for part in parts) / sum(part.weight.numel() for part in parts)


def cubic_sparsity(progress: float, final: float, initial: float = 0.0) -> float:
    """The share of zeros at this point between 0 and 1: it rises quickly at first, where much can go.

    Source: Zhu, Gupta 2017, equation 1.
    """
    return final + (initial - final) * (1.0 - min(max(progress, 0.0), 1.0)) ** 3


class KeptSparse(nn.Module):
    """An objective, and a judge, under which zeros stay zeros: an optimizer would move them."""

    def __init__(self, objective: Objective, masks: Masks, pruned: PreTrainedModel) -> None:
        super().__init__()
        self.objective = objective  # if it is a module, its parameters go on learning
        self._masks, self._pruned = masks, (pruned,)  # in a tuple it is no part of this module

    def forward(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        apply(self._pruned[0], self._masks)
        return self.objective(model, batch)

    def judge(self, by: Judge) -> Judge:
        """Judge the model as it will be kept."""

        def judged(model: nn.Module, rows: Rows, chosen: Sequence[int]) -> Scores:
            apply(self._pruned[0], self._masks)
            return by(model, rows, chosen)

        return judged


def _largest(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Exactly as many as asked for, whatever the ties. Shape: (N,)."""
    mask = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    mask[scores.topk(round(sparsity * len(scores)), largest=False).indices] = False
    return mask
