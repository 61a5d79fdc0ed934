"""The inference graph of a model that prunes tokens: what is not kept is taken out, so later layers do less.

The tokens of each text are ranked by the attention they received, and as many go on as the text of the batch
with most to keep has; in the others the surplus is absent to every attention. How many a text keeps is a
share of its length, or how many are above a threshold. Source: see `pruning.tokens`.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from compression.graph import InferenceGraph, Layer
from compression.pruning.tokens import (
    attention_bias,
    counts,
    fading,
    schedule_of,
    significance,
    thresholds_of,
)


class TokenPrunedGraph(InferenceGraph):
    """(ids, mask) -> logits as the classifier computes them, over fewer tokens in each layer."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.schedule, self.thresholds = schedule_of(model), thresholds_of(model)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Shapes: (B, T) ids and mask to (B, C) logits."""
        hidden = self.embeddings(input_ids)
        presence = attention_mask.to(hidden.dtype)
        lengths = attention_mask.sum(1, keepdim=True)
        *layers, last = self.layers
        before = 1.0
        for layer, share in zip(layers, self.schedule, strict=False):
            hidden, presence = _pruned(layer, hidden, presence, counts(share, lengths), share < before)
            before = share
        for layer, threshold in zip(layers, self.thresholds, strict=False):
            hidden, presence = _above(layer, hidden, presence, threshold)
        logits: torch.Tensor = self.head(last(hidden[:, :1], hidden, attention_bias(presence)))
        return logits


def _pruned(
    layer: torch.nn.Module, hidden: torch.Tensor, presence: torch.Tensor, count: torch.Tensor, fewer: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer, whose feed-forward part sees only the tokens that stay."""
    assert isinstance(layer, Layer)  # noqa: S101 - what InferenceGraph is made of
    weights = layer.weights(hidden, hidden, attention_bias(presence))
    attended = layer.attend(hidden, hidden, weights)
    if fewer:
        ranked, index = _ranked(significance(weights, presence), count)
        first_left_out = torch.cat([ranked, torch.full_like(ranked[:, :1], -1e4)], dim=1).gather(1, count)
        most = count.max()
        index, ranked = index[:, :most], ranked[:, :most]
        attended = _rows(attended, index)
        presence = presence.gather(1, index) * fading(ranked, first_left_out)
    return layer.feed_forward(attended), presence


def _above(
    layer: torch.nn.Module, hidden: torch.Tensor, presence: torch.Tensor, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer, whose feed-forward part sees only the tokens above a threshold."""
    assert isinstance(layer, Layer)  # noqa: S101 - what InferenceGraph is made of
    weights = layer.weights(hidden, hidden, attention_bias(presence))
    attended = layer.attend(hidden, hidden, weights)
    received = significance(weights, presence)
    staying = fading(received, torch.full_like(received[:, :1], threshold)) * presence
    # By what they received, for the first token is above all others there, and must stay the first.
    ranking = torch.where(staying > 0, received, torch.full_like(received, -1e4))
    _, index = torch.topk(ranking, (staying > 0).sum(1).max())  # type: ignore[arg-type]
    return layer.feed_forward(_rows(attended, index)), staying.gather(1, index)


def _ranked(significance: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest, one more than any text keeps, if there are so many. Shapes: (B, K) values and indices."""
    available = torch.tensor(significance.shape[1])
    found = torch.topk(significance, torch.minimum(count.max() + 1, available))  # type: ignore[arg-type]
    return found.values, found.indices


def _rows(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The chosen tokens of every text, gathered row by row. Shapes: (B, T, H), (B, K) to (B, K, H)."""
    start = torch.arange(states.shape[0], device=states.device)[:, None] * states.shape[1]
    flat = states.flatten(0, 1)
    return flat.index_select(0, (index + start).flatten()).view(index.shape[0], index.shape[1], -1)
