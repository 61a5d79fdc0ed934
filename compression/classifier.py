"""A classifier in PyTorch with its tokenizer: loaded, saved, and reloaded with pruned shapes.

A saved folder is in Hugging Face's own form. transformers refuses layers of uneven shape, so a pruned
model carries its shapes in `config.json` under `bertpress_layer_shapes` and is rebuilt from them.
"""

from __future__ import annotations

import copy
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from app.artifact import Head
from app.errors import CompressionError, UnsupportedModelError
from compression import early_exit
from compression.architecture import (
    FAMILIES,
    LayerShape,
    classifier_width,
    family_of,
    layer_shapes,
    reshape,
    set_classifier_width,
)
from compression.heads import describe, heads_of
from compression.ngrams.student import NgramForSequenceClassification, is_ngrams
from compression.pruning import tokens

SHAPES_KEY = "bertpress_layer_shapes"
CLASSIFIER_KEY = "bertpress_classifier_width"
WEIGHTS_FILE = "model.safetensors"
# RoBERTa and those that took its code count positions from behind the padding id.
_POSITIONS_BEHIND_PADDING = ("roberta", "camembert", "xlm-roberta", "mpnet", "longformer", "data2vec-text")


@dataclass
class Classifier:
    """A model, its tokenizer, and its labels in logit order."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the first head, in logit order."""
        return self.heads[0].labels

    @property
    def heads(self) -> tuple[Head, ...]:
        """The tasks it answers, each with its part of the logits."""
        return heads_of(self.model.config)

    @property
    def pad_token_id(self) -> int:
        """Id that fills up shorter rows."""
        return int(self.model.config.pad_token_id or 0)

    @property
    def longest_input(self) -> int:
        """Most tokens the position embeddings reach."""
        config = self.model.config
        offset = self.pad_token_id + 1 if config.model_type in _POSITIONS_BEHIND_PADDING else 0
        # Without position embeddings (XLNet, T5) no text is too long.
        return int(getattr(config, "max_position_embeddings", None) or sys.maxsize) - offset


def load(source: str, *, heads: tuple[Head, ...] | None = None, any_family: bool = False) -> Classifier:
    """Load a classifier from a folder or from the hub by its id.

    With `heads` the source may be a bare backbone: it gets a fresh classification layer. With `any_family`
    it may be of any architecture that transformers has a sequence classifier for: to be trained, and to
    teach by its logits, nobody has to look inside.

    Raises:
        UnsupportedModelError: not a model, not of a supported family, or a bare backbone where a
            classifier was expected.
        CompressionError: the weights are not those of the model that config.json describes.
    """
    config = config_of(source)
    if is_ngrams(config):
        return Classifier(_ngrams(source, config), load_tokenizer(source))
    if not any_family:
        family_of(config)
    if heads is None and not is_classifier(config):
        raise UnsupportedModelError(
            f"{source} is a backbone ({config.architectures}), not a sequence classifier; "
            "pass it as --backbone and it is fine-tuned first"
        )
    if heads is not None:
        describe(config, heads)
    model = _model(source, config, fresh_head=heads is not None)
    tokens.restore(model)
    model.train(False)
    return Classifier(model, load_tokenizer(source))


def load_model(source: str) -> PreTrainedModel:
    """The model alone: a tokenizer that a newer transformers wrote may not open in an older one.

    Raises:
        UnsupportedModelError: not a model, or without weights to load.
        CompressionError: the weights are not those of the model that config.json describes.
    """
    model = _model(source, config_of(source), fresh_head=False)
    model.train(False)
    return model


def save(classifier: Classifier, folder: Path) -> None:
    """Write the model and its tokenizer into a folder that `load` opens again.

    The weights appear last: where they stand, the folder is complete.
    """
    partial = folder / "classifier.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _state_shapes(classifier.model)
    classifier.model.save_pretrained(partial)
    classifier.tokenizer.save_pretrained(partial)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == WEIGHTS_FILE):
        path.replace(folder / path.name)
    partial.rmdir()


def write_description(classifier: Classifier, folder: Path) -> None:
    """Everything of a folder that `load` opens but the weights."""
    _state_shapes(classifier.model)
    config = copy.deepcopy(classifier.model.config)
    config.architectures = [type(classifier.model).__name__]
    config.save_pretrained(folder)
    classifier.tokenizer.save_pretrained(folder)


def _state_shapes(model: PreTrainedModel) -> None:
    if model.config.model_type in FAMILIES and not is_ngrams(model.config):
        shapes = layer_shapes(model)
        setattr(model.config, SHAPES_KEY, [[shape.heads, shape.ffn_width] for shape in shapes])
        setattr(model.config, CLASSIFIER_KEY, classifier_width(model))


def config_of(source: str) -> PretrainedConfig:
    """What a folder or hub id says of its model.

    Raises:
        UnsupportedModelError: neither.
    """
    try:
        return cast(PretrainedConfig, AutoConfig.from_pretrained(source, attn_implementation="eager"))
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"{source} is neither a model folder nor a hub id: {_first_line(error)}"
        ) from error


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether the model has a head for sequences; a bare backbone has none."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])


def _model(source: str, config: PretrainedConfig, fresh_head: bool) -> PreTrainedModel:
    shapes = getattr(config, SHAPES_KEY, None)
    if shapes is None:
        return _pretrained(source, config, fresh_head)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    ).float()
    reshape(model, tuple(LayerShape(heads, ffn_width) for heads, ffn_width in shapes))
    set_classifier_width(model, getattr(config, CLASSIFIER_KEY, None) or classifier_width(model))
    early_exit.restore(model)
    try:
        model.load_state_dict(load_file(Path(source) / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CompressionError(
            f"{source}/{WEIGHTS_FILE} does not hold the model its config.json describes: {_first_line(error)}"
        ) from error
    return model


def _ngrams(source: str, config: PretrainedConfig) -> PreTrainedModel:
    try:
        model = NgramForSequenceClassification.from_pretrained(source, config=config)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CompressionError(f"{source} has no n-gram tables to load: {_first_line(error)}") from error
    model.train(False)
    return model


def _pretrained(source: str, config: PretrainedConfig, fresh_head: bool) -> PreTrainedModel:
    try:
        loaded = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            attn_implementation="eager",
            ignore_mismatched_sizes=fresh_head,
            # Weights stored in fewer bits would be trained and judged in them.
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnsupportedModelError(f"{source} has no weights to load: {_first_line(error)}") from error
    return cast(PreTrainedModel, loaded)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id, without the length it was shipped with.

    Raises:
        UnsupportedModelError: none there, an empty one, or not a fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UnsupportedModelError(f"{source} has no tokenizer to load: {_first_line(error)}") from error
    # transformers makes a tokenizer of five special tokens where it finds no files.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UnsupportedModelError(f"{source} has no tokenizer to load: its vocabulary is empty")
    if not tokenizer.is_fast:
        raise UnsupportedModelError(f"{source} has no fast tokenizer (tokenizer.json); convert it first")
    # The length a backbone was shipped with is not ours: the manifest's tokenizer settings decide.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
