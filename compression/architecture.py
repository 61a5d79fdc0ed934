"""Where the three supported families keep their layers, heads and FFN neurons.

BERT, RoBERTa and DistilBERT name the same parts differently. Everything that looks inside a model
(students, pruning, export) goes through `family_of` and `encoder_layers`, so that the names stand here once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from app.artifact import Architecture
from app.errors import UnsupportedModelError
from compression.ngrams.student import NgramForSequenceClassification, is_ngrams


@dataclass(frozen=True)
class Family:
    """Names of the parts of one family, as dotted paths."""

    name: str
    encoder: str
    layers: str
    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    ffn_input: str
    activation: str
    ffn_output: str
    ffn_norm: str
    heads_attribute: str
    width_attribute: str
    layers_setting: str
    ffn_setting: str
    uses_token_types: bool
    embeddings: str
    classifier_dense: str
    classifier_output: str


def _bert_like(name: str, encoder: str, classifier: tuple[str, str]) -> Family:
    return Family(
        name=name,
        encoder=encoder,
        layers=f"{encoder}.encoder.layer",
        attention="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        ffn_input="intermediate.dense",
        activation="intermediate.intermediate_act_fn",
        ffn_output="output.dense",
        ffn_norm="output.LayerNorm",
        heads_attribute="num_attention_heads",
        width_attribute="all_head_size",
        layers_setting="num_hidden_layers",
        ffn_setting="intermediate_size",
        uses_token_types=True,
        embeddings=f"{encoder}.embeddings",
        classifier_dense=classifier[0],
        classifier_output=classifier[1],
    )


FAMILIES = {
    "bert": _bert_like("bert", "bert", ("bert.pooler.dense", "classifier")),
    "mobilebert": _bert_like("mobilebert", "mobilebert", ("mobilebert.pooler.dense", "classifier")),
    "roberta": _bert_like("roberta", "roberta", ("classifier.dense", "classifier.out_proj")),
    "distilbert": Family(
        name="distilbert",
        encoder="distilbert",
        layers="distilbert.transformer.layer",
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        ffn_input="ffn.lin1",
        activation="ffn.activation",
        ffn_output="ffn.lin2",
        ffn_norm="output_layer_norm",
        heads_attribute="n_heads",
        width_attribute="dim",
        layers_setting="n_layers",
        ffn_setting="hidden_dim",
        uses_token_types=False,
        embeddings="distilbert.embeddings",
        classifier_dense="pre_classifier",
        classifier_output="classifier",
    ),
}


def family_of(config: PretrainedConfig) -> Family:
    """The family a configuration belongs to.

    Raises:
        UnsupportedModelError: any other family, or MobileBERT in another form than its paper's with a
            pooler; the message names it and what is supported.
    """
    if is_ngrams(config):
        raise UnsupportedModelError("a model that counts n-grams has no layers to compress")
    family = FAMILIES.get(config.model_type)
    if family is None:
        supported = ", ".join(sorted(FAMILIES))
        raise UnsupportedModelError(
            f"a model of type {config.model_type!r} cannot be compressed; supported: {supported} "
            "(others can be trained, and teach a student by their logits)"
        )
    if family.name == "mobilebert":
        _check_blocks(config)
    return family


def _check_blocks(config: PretrainedConfig) -> None:
    wanted = {
        "use_bottleneck": True,
        "use_bottleneck_attention": False,
        "key_query_shared_bottleneck": True,
        "trigram_input": True,
        "classifier_activation": True,
    }
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise UnsupportedModelError(
                f"a MobileBERT with {name} = {getattr(config, name)} cannot be compressed; it must be {value}"
            )


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's layers, first to last."""
    return cast(nn.ModuleList, model.get_submodule(family_of(model.config).layers))


def linear(layer: nn.Module, path: str) -> nn.Linear:
    """One dense part of an encoder layer by its dotted path."""
    return cast(nn.Linear, layer.get_submodule(path))


def set_linear(layer: nn.Module, path: str, replacement: nn.Linear) -> None:
    """Put another dense part in the place of the one at `path`."""
    parent, _, name = path.rpartition(".")
    setattr(layer.get_submodule(parent), name, replacement)


@dataclass(frozen=True)
class LayerShape:
    """What pruning may change in a layer."""

    heads: int
    ffn_width: int


def layer_shapes(model: PreTrainedModel) -> tuple[LayerShape, ...]:
    """Heads and FFN width of every layer."""
    family = family_of(model.config)
    return tuple(
        LayerShape(
            heads=int(getattr(layer.get_submodule(family.attention), family.heads_attribute)),
            ffn_width=linear(layer, family.ffn_input).out_features,
        )
        for layer in encoder_layers(model)
    )


def head_size(model: PreTrainedModel) -> int:
    """Width of one attention head; pruning never changes it."""
    family = family_of(model.config)
    first = encoder_layers(model)[0]
    attention = first.get_submodule(family.attention)
    return linear(first, family.query).out_features // int(getattr(attention, family.heads_attribute))


def set_head_count(model: PreTrainedModel, layer: nn.Module, heads: int) -> None:
    """Tell a layer's attention how many heads its (already resized) projections hold."""
    family = family_of(model.config)
    attention = layer.get_submodule(family.attention)
    size = linear(layer, family.query).out_features // heads
    setattr(attention, family.heads_attribute, heads)
    setattr(attention, family.width_attribute, heads * size)


def reshape(model: PreTrainedModel, shapes: tuple[LayerShape, ...]) -> None:
    """Give every layer the stated shape, with fresh weights: the frame a pruned state dict is loaded into."""
    family = family_of(model.config)
    size = head_size(model)
    for layer, shape in zip(encoder_layers(model), shapes, strict=True):
        width = shape.heads * size
        for path in (family.query, family.key, family.value):
            set_linear(layer, path, nn.Linear(linear(layer, path).in_features, width))
        outer = linear(layer, family.attention_output).out_features
        set_linear(layer, family.attention_output, nn.Linear(width, outer))
        set_linear(layer, family.ffn_input, nn.Linear(outer, shape.ffn_width))
        set_linear(layer, family.ffn_output, nn.Linear(shape.ffn_width, outer))
        set_head_count(model, layer, shape.heads)


def classifier_width(model: PreTrainedModel) -> int:
    """Width of what the classifier computes from the first position; pruned states leave it as it was."""
    return linear(model, family_of(model.config).classifier_dense).out_features


def set_classifier_width(model: PreTrainedModel, width: int) -> None:
    """Give the classifier this inner width, with fresh weights."""
    family = family_of(model.config)
    dense, output = linear(model, family.classifier_dense), linear(model, family.classifier_output)
    set_linear(model, family.classifier_dense, nn.Linear(dense.in_features, width))
    set_linear(model, family.classifier_output, nn.Linear(width, output.out_features))


def describe(model: PreTrainedModel) -> Architecture:
    """The model's shapes as the manifest states them."""
    if isinstance(model, NgramForSequenceClassification):
        return model.describe()
    shapes = layer_shapes(model)
    return Architecture(
        family=model.config.model_type,
        layers=len(shapes),
        hidden_size=int(model.config.hidden_size),
        attention_heads=tuple(shape.heads for shape in shapes),
        ffn_width=tuple(shape.ffn_width for shape in shapes),
        vocabulary=int(model.config.vocab_size),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
