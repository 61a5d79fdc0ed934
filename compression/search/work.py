"""How much a classifier computes for one text: what a prediction of its latency is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from compression.architecture import head_size, layer_shapes


@dataclass(frozen=True)
class Shape:
    """What decides the work. `attention` is the summed width of a layer's heads."""

    hidden_size: int
    attention: tuple[int, ...]
    ffn: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """Multiply-adds with weights, multiply-adds between activations (attention), and layers, each of which
    has a cost of its own. `weights` are those read for a text, the embedding's few rows left out."""

    dense: float
    attention: float
    layers: float
    weights: float

    @property
    def terms(self) -> tuple[float, ...]:
        """What a linear model of the latency is fitted on: a constant, layers, and both kinds of products."""
        return (1.0, self.layers, self.dense, self.attention)


def shape_of(model: PreTrainedModel) -> Shape:
    """The shape of a model, pruned or not."""
    shapes, size = layer_shapes(model), head_size(model)
    return Shape(
        hidden_size=int(model.config.hidden_size),
        attention=tuple(shape.heads * size for shape in shapes),
        ffn=tuple(shape.ffn_width for shape in shapes),
    )


def work(shape: Shape, tokens: int, whole_last_layer: bool = False) -> Work:
    """The work of one text of so many tokens.

    A build computes queries, attention output and FFN of its last layer for one position alone (see
    `compression.graph`); with `whole_last_layer` every position counts, as PyTorch computes it.
    """
    dense = attention = 0.0
    for number, (width, ffn) in enumerate(zip(shape.attention, shape.ffn, strict=True)):
        is_last = number == len(shape.ffn) - 1 and not whole_last_layer
        answering = 1 if is_last else tokens
        dense += 2 * tokens * shape.hidden_size * width  # keys and values
        dense += answering * 2 * shape.hidden_size * (width + ffn)  # query, attention output, both of the FFN
        attention += 2 * answering * tokens * width
    return Work(dense, attention, len(shape.ffn), _weights(shape))


def _weights(shape: Shape) -> float:
    layers: Sequence[tuple[int, int]] = list(zip(shape.attention, shape.ffn, strict=True))
    return float(sum(shape.hidden_size * (4 * width + 2 * ffn) for width, ffn in layers))


# Every text that a search times has so many, fewer where a model reads fewer.
TOKENS = 128
# BERT-base, the baseline of every latency.
BERT_BASE = Shape(hidden_size=768, attention=(768,) * 12, ffn=(3072,) * 12)
