from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from compression.architecture import encoder_layers, family_of, linear
from compression.batches import Batch
from compression.pruning import layers
from compression.students import keep_layers
from compression.teacher import true_labels
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_classifier, tiny_model


def slow_importance(model: PreTrainedModel, batch: Batch, number: int) -> float:
    """The obvious way: a little more and a little less of the layer, and what each row's loss does."""
    layer, step, losses = encoder_layers(model)[number], 1e-4, []
    for scale in (1 + step, 1 - step):

        def scaled(_: object, positional: tuple[torch.Tensor, ...], output: Any) -> Any:
            changed = output[0] if isinstance(output, tuple) else output  # transformers 4 gives a tuple
            changed = positional[0] + scale * (changed - positional[0])  # noqa: B023 - removed in time
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = layer.register_forward_hook(scaled)
        with torch.no_grad():
            losses.append(true_labels(model, batch))
        handle.remove()
    return float(((losses[0] - losses[1]) / (2 * step)).abs().sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_the_slope_of_every_rows_loss(family: str) -> None:
    model, batch = tiny_model(family).double(), random_batch(rows=5)
    found = layers.importance(model, true_labels, [batch])
    expected = [slow_importance(model, batch, number) for number in range(3)]
    assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)
    twice = layers.importance(model, true_labels, [batch, batch])
    assert twice.tolist() == pytest.approx([2 * value for value in expected], rel=1e-3, abs=1e-6)


def test_importance_leaves_the_model_as_it_was() -> None:
    model, batch = tiny_model(), random_batch()
    before = logits(model, batch)
    layers.importance(model, true_labels, [batch])
    assert torch.equal(logits(model, batch), before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_layer_that_does_nothing_goes_first() -> None:
    classifier, batch = tiny_classifier(), random_batch(rows=8)
    family = family_of(classifier.model.config)
    idle = encoder_layers(classifier.model)[1]
    with torch.no_grad():
        for path in (family.attention_output, family.ffn_output):
            linear(idle, path).weight.zero_()
            linear(idle, path).bias.zero_()
    scores = layers.importance(classifier.model, true_labels, [batch])
    kept = layers.choose(scores, 2)
    assert kept == (0, 2)
    assert layers.choose(layers.magnitude(classifier.model), 2) == (0, 2)
    # Without it the answers are what they were, but for the LayerNorms it passes.
    smaller = keep_layers(classifier, kept)
    assert torch.allclose(logits(smaller.model, batch), logits(classifier.model, batch), atol=1e-4)


def test_magnitude_is_the_norm_of_what_adds_to_the_states() -> None:
    model = tiny_model()
    family = family_of(model.config)
    expected = [
        torch.cat(
            [linear(layer, path).weight.flatten() for path in (family.attention_output, family.ffn_output)]
        )
        .norm()
        .item()
        for layer in encoder_layers(model)
    ]
    assert layers.magnitude(model).tolist() == pytest.approx(expected, rel=1e-5)


def test_one_layer_stays() -> None:
    assert layers.choose(torch.tensor([1.0, 3.0, 2.0]), 0) == (1,)
    assert layers.choose(torch.tensor([1.0, 3.0, 2.0]), 2) == (1, 2)


def test_the_output_of_transformers_4_is_a_tuple() -> None:
    states, output = torch.ones(1, 2, 3), torch.full((1, 2, 3), 3.0)
    changed, rest = layers.skipped(states, (output, "attention"), torch.tensor(0.5))
    assert torch.equal(changed, torch.full((1, 2, 3), 2.0))
    assert rest == "attention"
    assert layers.input_of((), {"hidden_states": states}) is states
