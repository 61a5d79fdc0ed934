from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, ElectraConfig

from app.errors import UnsupportedModelError
from compression.architecture import (
    LayerShape,
    describe,
    encoder_layers,
    family_of,
    head_size,
    layer_shapes,
    linear,
    reshape,
)
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_model, uneven_classifier

EVEN = (LayerShape(heads=4, ffn_width=128),) * 3
UNEVEN = (LayerShape(1, 32), LayerShape(3, 96), LayerShape(2, 64))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_shows_its_layers(family: str) -> None:
    model = tiny_model(family)
    assert family_of(model.config).name == family
    assert layer_shapes(model) == EVEN
    assert head_size(model) == 8
    for layer in encoder_layers(model):
        names = family_of(model.config)
        for path in (names.query, names.key, names.value, names.attention_output):
            assert linear(layer, path).weight.shape == (32, 32)
        assert linear(layer, names.ffn_input).weight.shape == (128, 32)
        assert linear(layer, names.ffn_output).weight.shape == (32, 128)


@pytest.mark.parametrize("config", [AlbertConfig(), ElectraConfig()])
def test_other_families_are_refused_by_name(config: AlbertConfig | ElectraConfig) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        family_of(config)
    assert f"type {config.model_type!r} cannot be compressed" in str(raised.value)
    assert "supported: bert, distilbert, mobilebert, roberta" in str(raised.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reshaped_model_takes_a_pruned_models_weights(family: str) -> None:
    pruned = uneven_classifier(family).model
    frame = tiny_model(family, seed=7)
    reshape(frame, UNEVEN)
    assert layer_shapes(frame) == layer_shapes(pruned) == UNEVEN
    assert head_size(frame) == head_size(pruned) == 8
    frame.load_state_dict(pruned.state_dict())
    assert torch.equal(logits(frame, random_batch()), logits(pruned, random_batch()))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_description_is_the_manifests(family: str) -> None:
    model = uneven_classifier(family).model
    described = describe(model)
    assert (described.family, described.layers, described.hidden_size) == (family, 3, 32)
    assert described.attention_heads == (1, 3, 2)
    assert described.ffn_width == (32, 96, 64)
    assert described.vocabulary == 160
    assert described.parameters == sum(parameter.numel() for parameter in nn.Module.parameters(model))
