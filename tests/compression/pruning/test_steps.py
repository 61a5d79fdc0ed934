from __future__ import annotations

import pytest
import torch

from compression.architecture import encoder_layers, head_size, layer_shapes
from compression.pruning import layers, steps, structured, width
from compression.pruning.gates import GatedObjective
from compression.pruning.steps import Shares, Sizes
from compression.students import keep_layers
from compression.teacher import true_labels
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_classifier, tiny_model

WHOLE = Sizes(heads=12, neurons=384, layers=3, elements=32)


def test_shares_are_removed_in_steps_and_those_within_layers_of_the_layers_that_stay() -> None:
    removed = Shares(heads=0.5, neurons=0.25, layers=0.3, elements=0.25)
    assert steps.sizes(tiny_model()) == WHOLE
    assert steps.after(WHOLE, removed, 0.0) == WHOLE
    assert steps.after(WHOLE, removed, 1.0) == Sizes(heads=4, neurons=192, layers=2, elements=24)
    assert steps.after(WHOLE, removed, 0.5) == Sizes(heads=9, neurons=336, layers=3, elements=28)
    assert steps.after(WHOLE, Shares(0, 0, 0.9, 0), 1.0).layers == 1


def test_gates_close_a_share_of_what_is_left() -> None:
    closed = steps.to_close(Shares(0.5, 0.0, 0.3, 0.25), 0.5, 1.0)
    assert closed == pytest.approx(
        {"heads": 1 - 0.5 / 0.75, "neurons": 0, "layers": 0.15 / 0.85, "elements": 1 / 7}
    )
    assert steps.to_close(Shares(0.5, 0.2, 0.3, 0.25), 0.0, 1.0)["heads"] == pytest.approx(0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_each_removal_after_the_other(family: str) -> None:
    classifier, batch = tiny_classifier(family), random_batch(rows=8)
    wanted = Sizes(heads=5, neurons=160, layers=2, elements=24)
    scores = steps.taylor(classifier.model, wanted, true_labels, lambda: [batch])
    before = logits(classifier.model, batch)
    smaller = steps.take_out(classifier, wanted, scores)
    assert torch.equal(logits(classifier.model, batch), before)  # a copy was cut

    chosen = layers.choose(layers.importance(classifier.model, true_labels, [batch]), 2)
    parts = structured.importance(classifier.model, true_labels, [batch])
    elements = width.importance(classifier.model, true_labels, [batch])
    expected = keep_layers(classifier, chosen)
    left = structured.Importance(*([scores[i] for i in chosen] for scores in (parts.heads, parts.neurons)))
    structured.remove(expected.model, structured.choose(left, 5, 160))
    width.keep(expected.model, width.choose(elements, 24, 8))
    assert torch.equal(logits(smaller.model, batch), logits(expected.model, batch))
    assert steps.sizes(smaller.model) == wanted
    assert head_size(smaller.model) == 8


def test_kinds_of_which_nothing_goes_are_whole() -> None:
    classifier, batch = tiny_classifier(), random_batch(rows=8)
    for scores in (
        steps.magnitude(classifier.model),
        steps.taylor(classifier.model, WHOLE, true_labels, lambda: [batch]),
    ):
        same = steps.take_out(classifier, WHOLE, scores)
        assert torch.equal(logits(same.model, batch), logits(classifier.model, batch))


def test_what_gates_closed_goes() -> None:
    classifier = tiny_classifier()
    gated = GatedObjective(
        true_labels, classifier.model, {"heads": 0.5, "layers": 0.3, "elements": 0.25}, 10, 1.0
    )
    gated.openness["heads"].data.copy_(torch.tensor([9.0, -9, -9, -9] + [9.0] * 4 + [-9, -9, -9, 9.0]))
    gated.openness["layers"].data.copy_(torch.tensor([9.0, -9, 9]))
    gated.openness["elements"].data.copy_(torch.tensor([9.0] * 20 + [-9.0] * 8 + [9.0] * 4))
    wanted = Sizes(heads=2, neurons=256, layers=2, elements=24)
    smaller = steps.take_out(classifier, wanted, steps.learned(gated))
    assert [shape.heads for shape in layer_shapes(smaller.model)] == [1, 1]
    assert [shape.ffn_width for shape in layer_shapes(smaller.model)] == [128, 128]
    kept = [*range(20), *range(28, 32)]
    first, third = encoder_layers(smaller.model)[0], encoder_layers(classifier.model)[2]
    query = encoder_layers(classifier.model)[0].get_parameter("attention.self.query.weight")
    assert torch.equal(first.get_parameter("attention.self.query.weight"), query[:8, kept])
    query = third.get_parameter("attention.self.query.weight")
    last = encoder_layers(smaller.model)[1]
    assert torch.equal(last.get_parameter("attention.self.query.weight"), query[24:, kept])
