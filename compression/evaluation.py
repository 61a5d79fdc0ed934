"""How good answers are: accuracy with its interval, loss, and agreement with a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from app.artifact import Head
from compression.batches import Batch, Rows, by_token_budget
from compression.heads import heads_of, labels_of, slices

_EVALUATION_TOKENS = 2048

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """Accuracy and mean loss over rows; no accuracy where nothing is classified."""

    accuracy: float | None
    loss: float
    n: int


# How good a model is on the chosen rows; asked without gradients, the model in eval mode.
Judge = Callable[[nn.Module, Rows, Sequence[int]], Scores]


def by_labels(model: nn.Module, rows: Rows, chosen: Sequence[int]) -> Scores:
    """Judge a classifier by the true labels: the accuracy of its first head, the mean loss of all of them."""
    device = next(model.parameters()).device

    def predict(batch: Batch) -> torch.Tensor:
        batch = batch.to(device)
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        logits: torch.Tensor = output.logits.float().cpu()
        return logits

    return score(predict, rows, chosen, heads_of(cast(PreTrainedModel, model).config))


def score(
    predict: Callable[[Batch], torch.Tensor], rows: Rows, chosen: Sequence[int], heads: Sequence[Head]
) -> Scores:
    """Score a model on the chosen rows. `predict` maps a batch to logits of all heads, of shape (B, C)."""
    correct, loss = 0, 0.0
    for batch in batches(rows, chosen):
        logits = predict(batch)
        correct += int((logits[:, slices(heads)[0]].argmax(-1) == batch.labels).sum())
        loss += float(true_label_loss(logits, batch, heads).sum())
    return Scores(correct / len(chosen), loss / len(chosen), len(chosen))


def true_label_loss(
    logits: torch.Tensor,
    batch: Batch,
    heads: Sequence[Head],
    smoothing: float = 0.0,
    weights: Sequence[float] = (),
) -> torch.Tensor:
    """Cross-entropy with the true labels, the mean over all heads; a row without a label has no loss.

    Shapes: logits (B, C) of all heads side by side; loss (B,). Without `weights` all heads count the same.
    """
    losses = [
        functional.cross_entropy(
            logits[:, part],
            labels_of(batch, number),
            reduction="none",
            ignore_index=-1,
            label_smoothing=smoothing,
        )
        for number, part in enumerate(slices(heads))
    ]
    return mean_over_heads(losses, weights)


def mean_over_heads(losses: Sequence[torch.Tensor], weights: Sequence[float] = ()) -> torch.Tensor:
    """The weighted mean of each head's loss. Shapes: (B,) each and together."""
    stacked = torch.stack(list(losses))
    if not weights:
        return stacked.mean(0)
    shares = stacked.new_tensor(list(weights))
    return (stacked * (shares / shares.sum())[:, None]).sum(0)


def mean_of(scores: Sequence[Scores]) -> Scores:
    """The mean of several data sets' scores, each counting the same."""
    accuracies = [score.accuracy for score in scores if score.accuracy is not None]
    return Scores(
        accuracy=sum(accuracies) / len(accuracies) if accuracies else None,
        loss=sum(score.loss for score in scores) / len(scores),
        n=sum(score.n for score in scores),
    )


def batches(rows: Rows, chosen: Sequence[int], tokens: int = _EVALUATION_TOKENS) -> Iterator[Batch]:
    """The chosen rows in batches of like length within a token budget."""
    for group in by_token_budget(chosen, rows.lengths, tokens):
        yield rows.batch(group)


def accuracy(logits: Logits, labels: npt.NDArray[np.int64]) -> float:
    """Share of rows whose largest logit is the label's. Shapes: (N, C), (N,)."""
    return float((logits.argmax(-1) == labels).mean())


def accuracy_interval(accuracy: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion. Source: Wilson 1927."""
    z = 1.959964
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def flip_rate(logits: Logits, reference: Logits) -> float:
    """Share of rows whose label differs from the reference's. Shapes: (N, C) both."""
    return float((logits.argmax(-1) != reference.argmax(-1)).mean())


def probabilities(logits: Logits) -> Logits:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True), dtype=np.float32)
