"""A bottleneck student as an inference graph: see `graph` for what is left out, and why plain operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.architecture import encoder_layers, family_of, linear
from compression.graph import Head, padding_scores, reshaped


class BottleneckGraph(nn.Module):
    """(ids, mask) -> logits of a MobileBERT classifier."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        family = family_of(model.config)
        self.embeddings = _Trigrams(model.get_submodule(family.embeddings))
        self.layers = nn.ModuleList(_Block(layer) for layer in encoder_layers(model))
        self.head = Head(model, family)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Shapes: (B, T) ids and mask to (B, C) logits."""
        hidden = self.embeddings(input_ids)
        padding = padding_scores(attention_mask, hidden.dtype)
        *layers, last = self.layers
        for layer in layers:
            hidden = layer(hidden, padding)
        logits: torch.Tensor = self.head(last(hidden, padding, first_alone=True))
        return logits


class _Trigrams(nn.Module):
    """Narrow word vectors, each with the one after and the one before it. Shapes: (B, T) to (B, T, H)."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.words = source.get_submodule("word_embeddings")
        self.transformation = linear(source, "embedding_transformation")
        positions = source.get_parameter("position_embeddings.weight").detach()
        types = source.get_parameter("token_type_embeddings.weight").detach()
        self.positions = nn.Parameter(positions + types[0], requires_grad=False)
        self.norm = source.get_submodule("LayerNorm")

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        words = self.words(input_ids)
        nothing = torch.zeros_like(words[:, :1])
        after = torch.cat([words[:, 1:], nothing], dim=1)
        before = torch.cat([nothing, words[:, :-1]], dim=1)
        wide = self.transformation(torch.cat([after, words, before], dim=2))
        normalized: torch.Tensor = self.norm(wide + self.positions[: input_ids.shape[1]])
        return normalized


class _Block(nn.Module):
    """One layer, for all positions or the first. Shapes: hidden (B, T, H) to (B, Q, H), where Q is T or 1."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        attention = layer.get_submodule("attention.self")
        self.heads = int(attention.num_attention_heads)  # type: ignore[arg-type]
        self.query, self.key, self.value = (linear(attention, name) for name in ("query", "key", "value"))
        self.scale = (self.query.out_features // self.heads) ** -0.5
        self.squeeze = _Normed(layer, "bottleneck.input")
        self.squeeze_attention = _Normed(layer, "bottleneck.attention")
        self.attention_output = _Normed(layer, "attention.output")
        further: Sequence[nn.Module] = getattr(layer, "ffn", ())
        self.feed_forward = nn.ModuleList(_FeedForward(part) for part in (*further, layer))
        self.widen = _Normed(layer, "output.bottleneck")

    def forward(self, hidden: torch.Tensor, padding: torch.Tensor, first_alone: bool = False) -> torch.Tensor:
        squeezed = self.squeeze_attention(hidden)  # (B, T, W)
        asked, asking = (hidden[:, :1], squeezed[:, :1]) if first_alone else (hidden, squeezed)
        queries = self._split(self.query(asking)).transpose(1, 2) * self.scale
        keys = self._split(self.key(squeezed)).permute(0, 2, 3, 1)
        values = self._split(self.value(hidden)).transpose(1, 2)
        weights = (queries @ keys + padding).softmax(-1)  # (B, A, Q, T)
        mixed = reshaped((weights @ values).transpose(1, 2), (0, 0, -1))
        narrow = self.attention_output(mixed, self.squeeze(asked))
        for part in self.feed_forward:
            narrow = part(narrow)
        widened: torch.Tensor = self.widen(narrow, asked)
        return widened

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        return reshaped(projected, (0, 0, self.heads, -1))


class _FeedForward(nn.Module):
    """A feed-forward part with its residual. Shapes: (B, Q, W) to (B, Q, W)."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.ffn_input = linear(part, "intermediate.dense")
        self.activation = part.get_submodule("intermediate.intermediate_act_fn")
        self.ffn_output = _Normed(part, "output")

    def forward(self, narrow: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.ffn_output(self.activation(self.ffn_input(narrow)), narrow)
        return output


class _Normed(nn.Module):
    """A dense part, what is added to it if anything is, and its norm."""

    def __init__(self, parent: nn.Module, path: str) -> None:
        super().__init__()
        part = parent.get_submodule(path)
        self.dense, self.norm = linear(part, "dense"), part.get_submodule("LayerNorm")

    def forward(self, states: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        dense = self.dense(states)
        normed: torch.Tensor = self.norm(dense if residual is None else dense + residual)
        return normed
