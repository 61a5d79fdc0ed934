"""Students made from their teacher: fewer layers or narrower ones, its weights to start from.

Sources: Sanh et al. 2019, DistilBERT, section 3 (layers of the teacher to start from); Xu et al. 2024,
Initializing Models with Larger Ones (evenly spaced elements of the teacher's weights for a narrower student).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from app.errors import RecipeError
from compression.architecture import Family, encoder_layers, family_of, head_size, layer_shapes
from compression.classifier import Classifier

# Which layers: so many, this share of them, these, or every second one.
Layers = int | float | Sequence[int] | Literal["alternate"]


def evenly_spread(count: int, available: int) -> tuple[int, ...]:
    """`count` of the layers 0 to `available - 1`, from the first to the last; the last alone if one."""
    if count == 1:
        return (available - 1,)
    return tuple(int(index * (available - 1) / (count - 1)) for index in range(count))


def chosen_layers(layers: Layers, available: int) -> tuple[int, ...]:
    """Numbers (from 0) of the layers meant, of so many.

    Raises:
        RecipeError: a layer the model does not have, or the same one twice.
    """
    if layers == "alternate":
        return tuple(range(0, available, 2))
    if isinstance(layers, float):
        layers = max(1, round(layers * available))
    if isinstance(layers, int):
        if layers > available:
            raise RecipeError(f"{layers} layers asked for; the model has {available}")
        return evenly_spread(layers, available)
    numbers = [int(layer) for layer in layers]
    if sorted(set(numbers)) != numbers:
        raise RecipeError(f"layers must ascend without repeating, got {numbers}")
    if numbers[-1] >= available or numbers[0] < 0:
        raise RecipeError(f"layers {numbers} asked for; the model has {available}, 0 to {available - 1}")
    return tuple(numbers)


def keep_layers(classifier: Classifier, layers: Layers) -> Classifier:
    """A copy with only the chosen layers.

    Raises:
        RecipeError: a layer the model does not have, or the same one twice.
    """
    chosen = chosen_layers(layers, len(encoder_layers(classifier.model)))
    model = copy.deepcopy(classifier.model)
    family = family_of(model.config)
    kept = nn.ModuleList(encoder_layers(model)[index] for index in chosen)
    parent, _, name = family.layers.rpartition(".")
    setattr(model.get_submodule(parent), name, kept)
    setattr(model.config, family.layers_setting, len(chosen))
    return Classifier(model, classifier.tokenizer)


def narrow(classifier: Classifier, hidden_size: int | float, ffn_width: int | float) -> Classifier:
    """A copy with narrower states and FFN, as many heads, and every n-th element of the teacher's weights.

    A float is a share of what the model has. The hidden size is rounded down to a multiple of the heads.

    Raises:
        RecipeError: wider than the model, narrower than its heads, or the model's layers are uneven.
    """
    model = classifier.model
    heads, ffn, hidden = _even_shape(model)
    target = _at_most(hidden_size, hidden, "hidden_size") // heads * heads
    target_ffn = _at_most(ffn_width, ffn, "ffn")
    if target == 0:
        raise RecipeError(f"hidden_size {hidden_size} is too narrow for {heads} heads")
    config = copy.deepcopy(model.config)
    config.hidden_size = target
    setattr(config, family_of(config).ffn_setting, target_ffn)
    smaller: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    )
    taken = _Taken(
        hidden=_spaced(hidden, target),
        ffn=_spaced(ffn, target_ffn),
        heads=_within_heads(heads, hidden // heads, target // heads),
    )
    weights = model.state_dict()
    with torch.no_grad():
        for name, parameter in smaller.named_parameters():
            parameter.copy_(taken.of(name, weights[name], parameter.shape, family_of(config)))
    smaller.train(False)
    return Classifier(smaller, classifier.tokenizer)


class _Taken:
    """Which elements of each dimension go over."""

    def __init__(self, hidden: torch.Tensor, ffn: torch.Tensor, heads: torch.Tensor) -> None:
        self.hidden, self.ffn, self.heads = hidden, ffn, heads

    def of(self, name: str, weight: torch.Tensor, shape: torch.Size, family: Family) -> torch.Tensor:
        """The part of a weight that has the wanted shape."""
        rows, columns = self._indices(name, family)
        for dimension, index in ((0, rows), (1, columns)):
            if dimension < weight.ndim and weight.shape[dimension] != shape[dimension]:
                weight = weight.index_select(dimension, index)
        return weight

    def _indices(self, name: str, family: Family) -> tuple[torch.Tensor, torch.Tensor]:
        if any(f".{part}." in name for part in (family.query, family.key, family.value)):
            return self.heads, self.hidden
        if f".{family.attention_output}." in name:
            return self.hidden, self.heads
        if f".{family.ffn_input}." in name and family.layers in name:
            return self.ffn, self.hidden
        if f".{family.ffn_output}." in name and not name.startswith("classifier"):
            return self.hidden, self.ffn
        return self.hidden, self.hidden


def _even_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """Heads, FFN width and hidden size, the same in every layer."""
    shapes, hidden = set(layer_shapes(model)), int(model.config.hidden_size)
    (shape, *others) = shapes
    if others or shape.heads * head_size(model) != hidden:
        raise RecipeError("a narrower student is made from a model whose layers are even and not pruned")
    return shape.heads, shape.ffn_width, hidden


def _at_most(wanted: int | float, available: int, name: str) -> int:
    width = max(1, round(wanted * available)) if isinstance(wanted, float) else wanted
    if width > available:
        raise RecipeError(f"{name} {width} asked for; the model has {available}")
    return width


def _spaced(available: int, count: int) -> torch.Tensor:
    """Indices of `count` evenly spaced elements."""
    return torch.arange(count) * available // count


def _within_heads(heads: int, size: int, kept: int) -> torch.Tensor:
    """The same elements of every head."""
    return (torch.arange(heads)[:, None] * size + _spaced(size, kept)[None, :]).flatten()
