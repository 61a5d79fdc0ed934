from __future__ import annotations

import pytest
import torch
from torch import nn

from app.errors import CompressionError
from compression.distillation.tinybert import TinyBertLoss, TinyBertSettings, attention_loss, state_loss
from compression.distillation.trace import Trace, trace
from tests.compression.distillation.test_attention import LENGTHS, MASK
from tests.compression.tiny import random_batch, tiny_model, uneven_classifier

GENERATOR = torch.Generator().manual_seed(1)


def test_states_through_a_projection() -> None:
    student, teacher = torch.randn(3, 5, 2, generator=GENERATOR), torch.randn(3, 5, 4, generator=GENERATOR)
    projection = nn.Linear(2, 4, bias=False)
    found = state_loss(student, teacher, projection, MASK).detach()
    weight = projection.weight.detach()
    for row, length in enumerate(LENGTHS):
        squares = []
        for token in range(length):
            for width in range(4):
                ours = sum(float(student[row, token, i]) * float(weight[width, i]) for i in range(2))
                squares.append((ours - float(teacher[row, token, width])) ** 2)
        assert float(found[row]) == pytest.approx(sum(squares) / len(squares), rel=1e-4)


def test_attention_scores_of_real_pairs() -> None:
    student, teacher = torch.randn(2, 3, 2, 5, 5, generator=GENERATOR)
    found = attention_loss(student, teacher, MASK)
    for row, length in enumerate(LENGTHS):
        real = (student - teacher)[row, :, :length, :length]
        assert float(found[row]) == pytest.approx(float((real**2).mean()), rel=1e-4)


def traces(settings: TinyBertSettings) -> tuple[TinyBertLoss, Trace, Trace, torch.Tensor]:
    student, teacher, batch = tiny_model(layers=2), tiny_model(layers=3, seed=5), random_batch()
    loss = TinyBertLoss(settings, student, teacher, (2, 3))
    with torch.no_grad():
        ours, theirs = (trace(model, batch, attention=True) for model in (student, teacher))
    return loss, ours, theirs, batch.attention_mask


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 2.0, 0.25)])
def test_the_weighted_sum_over_mapped_layers(weights: tuple[float, float, float]) -> None:
    embeddings, hidden, attention = weights
    settings = TinyBertSettings(embeddings=embeddings, hidden=hidden, attention=attention)
    loss, ours, theirs, mask = traces(settings)
    expected = embeddings * state_loss(ours.hidden[0], theirs.hidden[0], nn.Identity(), mask)
    for index, layer in ((0, 2), (1, 3)):
        expected += hidden * state_loss(ours.hidden[index + 1], theirs.hidden[layer], nn.Identity(), mask)
        expected += attention * attention_loss(
            ours.attention_scores(index), theirs.attention_scores(layer - 1), mask
        )
    assert torch.allclose(loss(ours, theirs, mask).detach(), expected, atol=1e-5)
    assert loss.needs_attention == bool(attention)


def test_projections_learn_and_repeat() -> None:
    one, other = (
        TinyBertLoss(TinyBertSettings(), tiny_model(), tiny_model(hidden_size=64), (1, 2, 3))
        for _ in range(2)
    )
    assert one.hidden.weight.shape == (64, 32)
    assert torch.equal(one.hidden.weight, other.hidden.weight)
    assert all(parameter.requires_grad for parameter in one.parameters())


def test_other_heads_are_refused_where_maps_are_compared() -> None:
    student, teacher = uneven_classifier().model, tiny_model()
    said = "layer 1 of the student has 1 heads, layer 1 of the teacher 4; give the student as many"
    with pytest.raises(CompressionError, match=said):
        TinyBertLoss(TinyBertSettings(), student, teacher, (1, 2, 3))
    TinyBertLoss(TinyBertSettings(attention=0.0), student, teacher, (1, 2, 3))
