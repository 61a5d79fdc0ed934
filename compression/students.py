"""Students made from their teacher: fewer layers, the same weights to start from.

Source: Sanh et al. 2019, DistilBERT, section 3 (initialisation from the teacher's layers).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from app.errors import RecipeError
from compression.architecture import encoder_layers, family_of
from compression.classifier import Classifier


def evenly_spread(count: int, available: int) -> tuple[int, ...]:
    """`count` of the layers 0 to `available - 1`, from the first to the last; the last alone if one."""
    if count == 1:
        return (available - 1,)
    return tuple(int(index * (available - 1) / (count - 1)) for index in range(count))


def keep_layers(classifier: Classifier, layers: int | Sequence[int]) -> Classifier:
    """A copy with only the chosen layers (counted from 0, ascending), or with so many, evenly spread.

    Raises:
        RecipeError: a layer the model does not have, or the same one twice.
    """
    available = len(encoder_layers(classifier.model))
    if isinstance(layers, int):
        if layers > available:
            raise RecipeError(f"{layers} layers asked for; the model has {available}")
        layers = evenly_spread(layers, available)
    if sorted(set(layers)) != list(layers):
        raise RecipeError(f"layers must ascend without repeating, got {list(layers)}")
    if layers[-1] >= available or layers[0] < 0:
        raise RecipeError(f"layers {list(layers)} asked for; the model has {available}, 0 to {available - 1}")
    model = copy.deepcopy(classifier.model)
    family = family_of(model.config)
    kept = nn.ModuleList(encoder_layers(model)[index] for index in layers)
    parent, _, name = family.layers.rpartition(".")
    setattr(model.get_submodule(parent), name, kept)
    setattr(model.config, family.layers_setting, len(layers))
    return Classifier(model, classifier.tokenizer)
