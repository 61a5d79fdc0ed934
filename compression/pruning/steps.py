"""One step of structured pruning: how much is to stay, how much every part matters, and what goes.

Between steps a model recovers (`stages.pruning`), so that what is scored next is a model that works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from compression.architecture import head_size, layer_shapes
from compression.batches import Batch
from compression.classifier import Classifier
from compression.pruning import layers, structured, width
from compression.pruning.gates import GatedObjective
from compression.pruning.structured import Importance
from compression.students import keep_layers
from compression.training import Objective


@dataclass(frozen=True)
class Shares:
    """Which share of each kind is removed in the end; of heads and neurons, of the layers that stay."""

    heads: float
    neurons: float
    layers: float
    elements: float


@dataclass(frozen=True)
class Sizes:
    """How many parts of each kind a model has, over all its layers."""

    heads: int
    neurons: int
    layers: int
    elements: int


@dataclass(frozen=True)
class PartScores:
    """How much every part matters.

    `parts` are heads and neurons by layer; shapes of the others: layers (L,), elements (H,). Where scores
    are `comparable` across layers they are ranked as they are, else by their share of their layer's.
    """

    parts: Importance
    layers: torch.Tensor
    elements: torch.Tensor
    comparable: bool


def sizes(model: PreTrainedModel) -> Sizes:
    """What the model has."""
    shapes = layer_shapes(model)
    return Sizes(
        heads=sum(shape.heads for shape in shapes),
        neurons=sum(shape.ffn_width for shape in shapes),
        layers=len(shapes),
        elements=int(model.config.hidden_size),
    )


def after(whole: Sizes, removed: Shares, progress: float) -> Sizes:
    """What stays of `whole` at this point between 0 and 1; one layer at least."""
    kept_layers = max(1, round(whole.layers * (1 - removed.layers * progress)))
    in_them = kept_layers / whole.layers
    return Sizes(
        heads=round(whole.heads * in_them * (1 - removed.heads * progress)),
        neurons=round(whole.neurons * in_them * (1 - removed.neurons * progress)),
        layers=kept_layers,
        elements=round(whole.elements * (1 - removed.elements * progress)),
    )


def taylor(
    model: PreTrainedModel,
    wanted: Sizes,
    objective: Objective,
    sample: Callable[[], Iterable[Batch]],
) -> PartScores:
    """First-order importance on a sample; kinds of which nothing goes are not scored."""
    now = sizes(model)
    return PartScores(
        parts=structured.importance(model, objective, sample()),
        layers=layers.importance(model, objective, sample())
        if wanted.layers < now.layers
        else torch.ones(now.layers),
        elements=width.importance(model, objective, sample())
        if wanted.elements < now.elements
        else torch.ones(now.elements),
        comparable=False,
    )


def magnitude(model: PreTrainedModel) -> PartScores:
    """Norms of the weights; nothing is run."""
    return PartScores(
        structured.magnitude(model), layers.magnitude(model), width.magnitude(model), comparable=False
    )


def learned(gated: GatedObjective) -> PartScores:
    """How open the gates came to be."""
    return PartScores(gated.importance(), gated.chances("layers"), gated.chances("elements"), comparable=True)


def to_close(removed: Shares, before: float, now: float) -> dict[str, float]:
    """By kind of gate, the share of what is there now that this step closes."""
    ends = {
        "heads": removed.heads,
        "neurons": removed.neurons,
        "layers": removed.layers,
        "elements": removed.elements,
    }
    return {kind: 1 - (1 - end * now) / (1 - end * before) for kind, end in ends.items()}


def take_out(classifier: Classifier, wanted: Sizes, scores: PartScores) -> Classifier:
    """A copy with only the most important parts, so many of each kind; layers may end uneven."""
    chosen = layers.choose(scores.layers, wanted.layers)
    smaller = keep_layers(classifier, chosen)
    left = Importance(
        [scores.parts.heads[layer] for layer in chosen], [scores.parts.neurons[layer] for layer in chosen]
    )
    kept = structured.choose(left, wanted.heads, wanted.neurons, by_layer=not scores.comparable)
    structured.remove(smaller.model, kept)
    if wanted.elements < len(scores.elements):
        width.keep(smaller.model, width.choose(scores.elements, wanted.elements, head_size(smaller.model)))
    return smaller
