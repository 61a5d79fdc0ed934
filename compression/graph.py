"""The classifier as an inference graph: the same answers, and nothing computed that they do not need.

What is left out of the model as it was trained:

- token types are always zero: their row is added to the position table once;
- the scale of the attention scores is multiplied into the query weights;
- a key's bias adds the same to all scores of a query, and softmax does not see it;
- attention weights sum to one, so the value's bias passes through them into the output's bias;
- the classifier reads one position of the last layer: there queries, attention output and feed-forward part
  are computed for that position alone, keys and values for all of them.

What remains is written with plain operators, one matrix product per dense part, so that ONNX Runtime and
OpenVINO both read it and both find their own fusions in it. On a CPU the fused `SkipLayerNormalization` and
`Attention` of ONNX Runtime are slower than the plain operators (docs/experiments.md).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.architecture import Family, encoder_layers, family_of, linear

# Added to the scores of padding: its exponential is zero in every float format.
_PADDING_SCORE = -10000.0


class InferenceGraph(nn.Module):
    """(ids, mask) -> logits as the classifier computes them, in fewer operations.

    The model's own weights are read when this is made; later changes to the model are not seen.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        family = family_of(model.config)
        self.embeddings = _Embeddings(model, family)
        self.layers = nn.ModuleList(Layer(layer, family) for layer in encoder_layers(model))
        self.head = Head(model, family)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Shapes: (B, T) ids and mask to (B, C) logits."""
        hidden = self.embeddings(input_ids)  # (B, T, H)
        padding = padding_scores(attention_mask, hidden.dtype)  # (B, 1, 1, T)
        *layers, last = self.layers
        for layer in layers:
            hidden = layer(hidden, hidden, padding)
        logits: torch.Tensor = self.head(last(hidden[:, :1], hidden, padding))
        return logits


def padding_scores(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the attention scores. Shapes: (B, T) to (B, 1, 1, T)."""
    return (1.0 - attention_mask.to(dtype)[:, None, None, :]) * _PADDING_SCORE


class Layer(nn.Module):
    """One encoder layer, for the positions that are asked for.

    Shapes: asked (B, Q, H), hidden (B, T, H), padding (B, 1, 1, T) to (B, Q, H).
    """

    def __init__(self, layer: nn.Module, family: Family) -> None:
        super().__init__()
        self.heads = int(getattr(layer.get_submodule(family.attention), family.heads_attribute))
        key, value = linear(layer, family.key), linear(layer, family.value)
        self.query = _scaled(linear(layer, family.query), self.heads)
        self.key, self.value = _dense(key.weight), _dense(value.weight)
        self.attention_output = _with_value_bias(linear(layer, family.attention_output), value)
        self.attention_norm = layer.get_submodule(family.attention_norm)
        self.ffn_input, self.ffn_output = linear(layer, family.ffn_input), linear(layer, family.ffn_output)
        self.activation = layer.get_submodule(family.activation)
        self.ffn_norm = layer.get_submodule(family.ffn_norm)

    def forward(self, asked: torch.Tensor, hidden: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.feed_forward(self.attend(asked, hidden, self.weights(asked, hidden, padding)))

    def weights(self, asked: torch.Tensor, hidden: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """How much each asked position attends to every position. Shape: (B, A, Q, T)."""
        queries = self._split(self.query(asked)).transpose(1, 2)  # (B, A, Q, D)
        keys = self._split(self.key(hidden)).permute(0, 2, 3, 1)  # (B, A, D, T)
        return (queries @ keys + padding).softmax(-1)

    def attend(self, asked: torch.Tensor, hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The attention's part of the layer. Shape: (B, Q, H)."""
        values = self._split(self.value(hidden)).transpose(1, 2)  # (B, A, T, D)
        mixed = reshaped((weights @ values).transpose(1, 2), (0, 0, -1))  # (B, Q, A * D)
        attended: torch.Tensor = self.attention_norm(self.attention_output(mixed) + asked)
        return attended

    def feed_forward(self, attended: torch.Tensor) -> torch.Tensor:
        """The rest of the layer. Shape: (B, Q, H)."""
        transformed = self.ffn_output(self.activation(self.ffn_input(attended)))
        output: torch.Tensor = self.ffn_norm(transformed + attended)
        return output

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        return reshaped(projected, (0, 0, self.heads, -1))  # (B, T, A, D)


class _Embeddings(nn.Module):
    """Ids to vectors. Shapes: (B, T) to (B, T, H)."""

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        super().__init__()
        source = model.get_submodule(family.embeddings)
        self.words = source.get_submodule("word_embeddings")
        positions = cast(nn.Embedding, source.get_submodule("position_embeddings")).weight.detach().clone()
        if family.uses_token_types:
            positions += cast(nn.Embedding, source.get_submodule("token_type_embeddings")).weight.detach()[0]
        self.positions = nn.Parameter(positions, requires_grad=False)
        self.norm = source.get_submodule("LayerNorm")
        # RoBERTa counts positions from behind the padding id, and only where there is no padding.
        self.padding_id = int(model.config.pad_token_id) if family.name == "roberta" else None

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        normalized: torch.Tensor = self.norm(self.words(input_ids) + self._positions(input_ids))
        return normalized

    def _positions(self, input_ids: torch.Tensor) -> torch.Tensor:
        if self.padding_id is None:
            return self.positions[: input_ids.shape[1]]
        filled = input_ids.ne(self.padding_id).long()
        return nn.functional.embedding(torch.cumsum(filled, dim=1) * filled + self.padding_id, self.positions)


def _dense(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    dense = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    dense.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        dense.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return dense


def _scaled(query: nn.Linear, heads: int) -> nn.Linear:
    scale = 1.0 / math.sqrt(query.out_features // heads)
    return _dense(query.weight * scale, query.bias * scale)


def _with_value_bias(output: nn.Linear, value: nn.Linear) -> nn.Linear:
    return _dense(output.weight, output.bias + output.weight @ value.bias)


class Head(nn.Module):
    """What makes logits of the first position. Shapes: (B, 1, H) to (B, C)."""

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        super().__init__()
        self.dense = model.get_submodule(family.classifier_dense)
        self.output = model.get_submodule(family.classifier_output)
        self.activation = nn.ReLU() if family.name == "distilbert" else nn.Tanh()

    def forward(self, first: torch.Tensor) -> torch.Tensor:
        return reshaped(self.output(self.activation(self.dense(first))), (0, -1))


def reshaped(values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Reshape where 0 keeps a dimension."""
    if torch.onnx.is_in_onnx_export():
        return cast(torch.Tensor, _ReshapeOperator.apply(values, shape))  # type: ignore[no-untyped-call]
    return values.reshape([values.shape[i] if size == 0 else size for i, size in enumerate(shape)])


class _ReshapeOperator(torch.autograd.Function):
    """ONNX's own Reshape with a constant shape: traced as it is, every shape is computed at run time."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return values.reshape([values.shape[i] if size == 0 else size for i, size in enumerate(shape)])

    @staticmethod
    def symbolic(graph: Any, values: Any, shape: tuple[int, ...]) -> Any:
        """The operator it becomes."""
        return graph.op("Reshape", values, graph.op("Constant", value_t=torch.tensor(shape)))
