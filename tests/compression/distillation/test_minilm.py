from __future__ import annotations

import math

import pytest
import torch

from app.errors import CompressionError
from compression.distillation.attention import row_divergence
from compression.distillation.minilm import MiniLmLoss, MiniLmSettings, relation_loss, relations
from compression.distillation.trace import trace
from tests.compression.distillation.test_attention import MASK
from tests.compression.tiny import random_batch, tiny_model, uneven_classifier

GENERATOR = torch.Generator().manual_seed(2)


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_relations_by_their_definition(heads: int) -> None:
    """Two heads of three numbers joined to six, cut into any number of relation heads."""
    states = torch.randn(3, 2, 5, 3, generator=GENERATOR)
    found = relations(states, heads)
    size = 6 // heads
    for row in range(3):
        joined = [[*states[row, 0, token].tolist(), *states[row, 1, token].tolist()] for token in range(5)]
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for one in range(5):
                for other in range(5):
                    dot = sum(a * b for a, b in zip(joined[one][part], joined[other][part], strict=True))
                    expected = dot / math.sqrt(size)
                    assert float(found[row, head, one, other]) == pytest.approx(expected, abs=1e-5)


def test_heads_and_widths_may_differ() -> None:
    student, teacher = (
        torch.randn(3, 2, 5, 3, generator=GENERATOR),
        torch.randn(3, 4, 5, 6, generator=GENERATOR),
    )
    found = relation_loss(student, teacher, 6, MASK)
    assert torch.equal(found, row_divergence(relations(student, 6), relations(teacher, 6), MASK))
    assert relation_loss(teacher, teacher, 6, MASK).abs().max() < 1e-6


@pytest.mark.parametrize(("layer", "index"), [(0, 2), (2, 1), (3, 2)])
def test_the_last_layer_follows_the_chosen_one(layer: int, index: int) -> None:
    student, teacher, batch = tiny_model(layers=1), tiny_model(hidden_size=64, seed=5), random_batch()
    loss = MiniLmLoss(MiniLmSettings(weight=0.5, heads=8, layer=layer), student, teacher)
    with torch.no_grad():
        ours, theirs = (trace(model, batch, attention=True) for model in (student, teacher))
    mask = batch.attention_mask
    expected = 0.5 * (
        relation_loss(ours.queries[0], theirs.queries[index], 8, mask)
        + relation_loss(ours.keys[0], theirs.keys[index], 8, mask)
        + relation_loss(ours.values[0], theirs.values[index], 8, mask)
    )
    assert torch.allclose(loss(ours, theirs, mask), expected, atol=1e-5)


def test_relation_heads_must_divide_both_widths() -> None:
    with pytest.raises(CompressionError, match="heads = 12 does not divide the student's attention width 32"):
        MiniLmLoss(MiniLmSettings(), tiny_model(), tiny_model())
    with pytest.raises(CompressionError, match="does not divide the teacher's attention width 16"):
        MiniLmLoss(MiniLmSettings(heads=32), tiny_model(), uneven_classifier().model)


def test_a_layer_the_teacher_does_not_have() -> None:
    with pytest.raises(CompressionError, match=r"minilm\.layer 4 is asked for; the teacher has 3"):
        MiniLmLoss(MiniLmSettings(heads=4, layer=4), tiny_model(), tiny_model())
